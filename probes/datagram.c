/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      network_connect for datagrams that need no connect(), dns_query.
 * Why here   A handler notes the call once it has returned; of its messages, one program reports the
 *            destinations, another one the DNS queries.
 * Hooks      syscall.c, by tail call: sendto, sendmsg, sendmmsg.
 * Misses     Datagrams sent by io_uring; DNS over TCP, TLS or write(); what follows the eighth message of one
 *            sendmmsg(); datagrams to a place that the same process has sent to over the same socket before.
 *            Where only the caller's sockaddr is known the record is marked FLAG_ARGUMENT.
 * Cost       A send costs the look at its socket, a datagram two more programs.
 */
#define MSG_FASTOPEN 0x20000000
#define DNS_PORT 53
#define DNS_HEADER 12
#define MESSAGES 8          /* looked at of one sendmmsg(); glibc's resolver sends A and AAAA in one call: two */

struct sending {
	u64 busy;           /* see occupy() */
	struct sock *sk;
	u64 inode;          /* of the socket: used once, while a sock's address is used again */
	u64 at;             /* the caller's struct msghdr, or array of struct mmsghdr; for sendto() the bytes */
	u64 address;        /* sendto() only */
	s64 result;
	u32 messages;       /* 0 for sendto() */
	u32 flags;
	u16 protocol;
	u16 family;
	u32 next;           /* message to look at */
	u32 queries;        /* whether one of them goes to port 53 */
	u32 pad;
};
BPF_PERCPU_ARRAY(sendings, struct sending, 1);

struct user_message {       /* struct user_msghdr, 64-bit */
	u64 name;
	u32 name_length, pad;
	u64 iov;
	u64 iov_length;
};
#define MMSGHDR 64          /* sizeof(struct mmsghdr), 64-bit */

/* Where a message is sent to, in the caller's memory; 0 where only the connection says. */
static __always_inline u64 name_of(struct user_message *message)
{
	return message->name_length ? message->name : 0;
}

/* The next message of the call; its name is an address, or 0. */
static __always_inline void read_message(struct user_message *to, struct sending *sending)
{
	if (!sending->messages) {
		to->name = sending->address;
		to->name_length = 1;
		return;
	}
	bpf_probe_read_user(to, sizeof(*to), (void *)sending->at + sending->next * MMSGHDR);
}

/* Whether there is one more message: then the same program runs again, for the verifier counts every turn of a loop. */
static __always_inline int is_more(struct sending *sending)
{
	sending->next++;
	return sending->next < sending->messages && sending->next < MESSAGES;
}

static __always_inline int on_send(struct bpf_raw_tracepoint_args *ctx, struct arguments *call, u64 address,
				   u32 messages, u64 send_flags)
{
	u32 zero = 0;
	struct sending *sending = sendings.lookup(&zero);
	struct file *file = file_of(call->a);
	struct inode *inode = NULL;
	struct user_message message = {};
	struct sock *sk;
	u16 protocol = 0, family = 0, port = 0;

	sk = sock_behind(file, &protocol, &family);
	if (!sk || !sending || (messages && call->flags & FLAG_COMPAT))     /* struct compat_msghdr lies otherwise */
		return 0;
	if (protocol == IPPROTO_TCP ? !(send_flags & MSG_FASTOPEN) : call->result < 0)
		return 0;
	if (messages == 1) {
		bpf_probe_read_user(&message, sizeof(message), (void *)call->b);
		address = name_of(&message);
	}
	/* Most sends: over a connection, and no query. */
	READ(port, &sk->__sk_common.skc_dport);
	if (!address && messages < 2 && SWAP16(port) != DNS_PORT)
		return 0;
	if (!occupy(&sending->busy, EVENT_NETWORK_CONNECT))
		return 0;
	READ(inode, &file->f_inode);
	READ(sending->inode, &inode->i_ino);
	sending->sk = sk;
	sending->at = call->b;
	sending->address = address;
	sending->result = call->result;
	sending->messages = messages;
	sending->next = 0;
	sending->queries = 0;
	sending->flags = call->flags;
	sending->protocol = protocol;
	sending->family = family;
	tail(ctx, TAIL_DATAGRAM);
	tail(ctx, TAIL_DNS);        /* nobody asked for the destinations */
	vacate(&sending->busy);
	return 0;
}

int on_sendto(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;

	read_arguments(&call, ctx);
	return on_send(ctx, &call, call.e, 0, call.d);
}

int on_sendmsg(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;

	read_arguments(&call, ctx);
	return on_send(ctx, &call, 0, 1, call.c);
}

int on_sendmmsg(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;

	if ((s64)ctx->args[1] < 1)
		return 0;
	read_arguments(&call, ctx);
	return on_send(ctx, &call, 0, call.result, call.d);
}

/* A caller's address as the kernel understands it for a datagram of this family of socket. */
static __always_inline void read_destination(struct endpoint *to, u64 address, u16 family)
{
	read_sockaddr(to, (void *)address);
	if (family == AF_INET && to->family == 0) {         /* an IPv4 socket takes AF_UNSPEC for its own */
		to->known = !bpf_probe_read_user(to->address, 4, (void *)address + 4);
	} else if (family == AF_INET6 && to->family == AF_INET) {
		__builtin_memcpy(to->address + 12, to->address, 4);
		__builtin_memset(to->address, 0, 10);
		to->address[10] = to->address[11] = 0xff;
	}
}

/* What has been reported. Direct-mapped: another destination in the same place means a record more, never one less. */
struct contact {
	u64 address[2];
	u64 inode;
	u32 pid;
	u16 port;
	u16 family;
};
#define CONTACTS_BITS 12
BPF_ARRAY(contacts, struct contact, 1 << CONTACTS_BITS);

static __always_inline u32 place_of(struct contact *contact)
{
	u64 *words = (u64 *)contact, hash = 0;

#pragma unroll
	for (int i = 0; i < sizeof(*contact) / 8; i++) {
		hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 32;
	}
	return hash & ((1 << CONTACTS_BITS) - 1);
}

static __always_inline int is_same(struct contact *a, struct contact *b)
{
	return a->address[0] == b->address[0] && a->address[1] == b->address[1] && a->inode == b->inode &&
	       a->pid == b->pid && a->port == b->port;
}

static __always_inline int is_connected_to(struct sock *sk, struct endpoint *remote)
{
	struct endpoint peer = {};
	u64 *a = (u64 *)peer.address, *b = (u64 *)remote->address;
	u16 port = 0;

	READ(port, &sk->__sk_common.skc_dport);
	if (!port || SWAP16(port) != remote->port)
		return 0;
	read_remote(&peer, sk);
	return a[0] == b[0] && a[1] == b[1];
}

/* The first datagram that a process sends to a destination over a socket which is not connected to it. */
static __always_inline int emit_contact(struct sending *sending, struct endpoint *remote)
{
	struct endpoint local = {};
	struct contact contact = {}, *known;
	u32 place;

	if (is_connected_to(sending->sk, remote))
		return 0;
	__builtin_memcpy(contact.address, remote->address, 16);
	contact.inode = sending->inode;
	contact.pid = bpf_get_current_pid_tgid() >> 32;
	contact.port = remote->port;
	contact.family = sending->family;
	place = place_of(&contact);
	known = contacts.lookup(&place);
	if (!known)
		return 0;
	if (is_same(known, &contact)) {
		count_filtered(EVENT_NETWORK_CONNECT);
		return 0;
	}
	if (is_self())
		return 0;
	*known = contact;
	read_local(&local, sending->sk);
	BEGIN(s, e, event_network_connect, EVENT_NETWORK_CONNECT);
	s->flags = sending->flags | FLAG_ARGUMENT;
	FILL(e, &local, remote, sending->protocol, sending->family, 0, sending->sk);
	commit(s);
	return 0;
}

int emit_datagram(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct sending *sending = sendings.lookup(&zero);
	struct user_message message = {};
	struct endpoint remote = {};
	u64 address;
	u16 port = 0;

	if (!sending)
		return 0;
	read_message(&message, sending);
	address = name_of(&message);
	if (sending->protocol == IPPROTO_TCP) {     /* a connection that the send begins */
		emit_connect(sending->sk, IPPROTO_TCP, sending->family, sending->result < 0 ? sending->result : 0,
			     sending->flags, (void *)address);
		vacate(&sending->busy);
		return 0;
	}
	if (address) {
		read_destination(&remote, address, sending->family);
		if (remote.known)
			emit_contact(sending, &remote);
	}
	if (!remote.known) {
		READ(port, &sending->sk->__sk_common.skc_dport);
		remote.port = SWAP16(port);
	}
	if (remote.port == DNS_PORT)
		sending->queries = 1;
	if (is_more(sending))
		tail(ctx, TAIL_DATAGRAM);
	sending->next = 0;
	if (sending->queries)
		tail(ctx, TAIL_DNS);
	vacate(&sending->busy);
	return 0;
}

struct user_iovec {
	u64 base, length;
};
#define PIECES 4            /* of one datagram; a resolver uses one */

static __always_inline int emit_query(struct sending *sending, u64 address, struct user_iovec *pieces, u64 count)
{
	struct endpoint local = {}, remote = {};
	u32 marks = sending->flags, start;

	if (!sending->messages && sending->result < DNS_HEADER)
		return 0;
	read_remote(&remote, sending->sk);
	if (address) {
		read_destination(&remote, address, sending->family);
		marks |= FLAG_ARGUMENT;
	}
	if (remote.port != DNS_PORT || is_self())
		return 0;
	read_local(&local, sending->sk);
	BEGIN(s, e, event_dns_query, EVENT_DNS_QUERY);
	s->flags = marks;
	FILL(e, &local, &remote, sending->protocol, sending->family, 0, sending->sk);
	start = s->length;
#pragma unroll
	for (int i = 0; i < PIECES; i++) {
		if (i < count) {
			e->query_bytes += pieces[i].length;
			put_user_bytes(s, (void *)pieces[i].base, pieces[i].length, CAP_DNS_QUERY_QUERY);
		}
	}
	e->query = TEXT_WORD(start, s->length - start);
	commit(s);
	return 0;
}

int emit_dns(struct bpf_raw_tracepoint_args *ctx)
{
	struct user_iovec pieces[PIECES] = {};
	u32 zero = 0;
	struct sending *sending = sendings.lookup(&zero);
	struct user_message message = {};

	if (!sending)
		return 0;
	if (sending->protocol == IPPROTO_TCP) {
		vacate(&sending->busy);
		return 0;
	}
	read_message(&message, sending);
	if (!sending->messages) {
		message.iov_length = 1;
		pieces[0].base = sending->at;
		pieces[0].length = sending->result;
	} else {
#pragma unroll
		for (int i = 0; i < PIECES; i++) {
			if (i < message.iov_length)
				bpf_probe_read_user(&pieces[i], sizeof(pieces[i]),
						    (void *)message.iov + i * sizeof(pieces[i]));
		}
	}
	emit_query(sending, name_of(&message), pieces, message.iov_length);
	if (is_more(sending))
		tail(ctx, TAIL_DNS);
	vacate(&sending->busy);
	return 0;
}
