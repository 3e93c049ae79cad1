/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      network_connect, network_accept, network_bind, network_listen, dns_query.
 * Why here   Addresses come from the struct sock behind the descriptor once the call has returned.
 *            A refused TCP connect leaves its sock without the peer, so the attempt is noted
 *            when it starts (inet_sock_set_state, TCP_CLOSE -> TCP_SYN_SENT, caller's context).
 * Hooks      syscall.c, by tail call;
 *            hook-proto: include/trace/events/sock.h: inet_sock_set_state(sk, oldstate, newstate);
 *            hook-proto: include/trace/events/io_uring.h: io_uring_complete(ring, request, ...)
 *            Instead, where asked for or nothing else loads: fentry, kprobe or LSM on
 *            (security_)socket_{connect,bind,listen}, which come before the outcome; kretprobe on
 *            inet_csk_accept.
 *            hook-proto: security/security.c: security_socket_connect(sock, address, addrlen)
 * Misses     io_uring but for connect and accept; the 32-bit socketcall(); DNS over TCP, TLS or write(); raw and other sockets;
 *            what follows the eighth message of one sendmmsg(); datagrams to a place that the same process has
 *            sent to over the same socket before.
 *            Where only the caller's sockaddr is known (UDP without a connection, a connect that
 *            failed before it had a route) the record is marked FLAG_ARGUMENT.
 * Cost       A send by sendto, sendmsg or sendmmsg costs the look at its socket, a datagram two more programs,
 *            a TCP state change one; the rest is paid per call that is reported.
 */
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_UDPLITE 136
#define IPPROTO_MPTCP 262   /* TCP on the wire */
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define SS_CONNECTING 2
#define EINPROGRESS 115
#define SWAP16(value) __builtin_bswap16(value)

struct endpoint {
	u8 address[16];
	u16 port;           /* host order */
	u16 family;
	u32 known;
};

BPF_HASH(attempts, u64, struct endpoint, 4096);     /* struct sock * -> where its TCP connect goes */

static __always_inline void read_remote(struct endpoint *to, struct sock *sk)
{
	struct sock_common *common = &sk->__sk_common;
	u16 port = 0;

	READ(to->family, &common->skc_family);
	READ(port, &common->skc_dport);
	to->port = SWAP16(port);
	if (to->family == AF_INET6)
		bpf_probe_read_kernel(to->address, 16, (void *)&common->skc_v6_daddr);
	else
		bpf_probe_read_kernel(to->address, 4, (void *)&common->skc_daddr);
	to->known = port != 0;
}

static __always_inline void read_local(struct endpoint *to, struct sock *sk)
{
	struct sock_common *common = &sk->__sk_common;

	READ(to->family, &common->skc_family);
	READ(to->port, &common->skc_num);
	if (to->family == AF_INET6)
		bpf_probe_read_kernel(to->address, 16, (void *)&common->skc_v6_rcv_saddr);
	else
		bpf_probe_read_kernel(to->address, 4, (void *)&common->skc_rcv_saddr);
	to->known = 1;
}

/* A caller's struct sockaddr_in or sockaddr_in6: family, port, then the address at 4 or 8. */
static __always_inline void read_sockaddr(struct endpoint *to, const void *address)
{
	u16 head[2] = {};

	if (!address || bpf_probe_read_user(head, sizeof(head), address))
		return;
	to->family = head[0];
	to->port = SWAP16(head[1]);
	if (head[0] == AF_INET6)
		to->known = !bpf_probe_read_user(to->address, 16, address + 8);
	else if (head[0] == AF_INET)
		to->known = !bpf_probe_read_user(to->address, 4, address + 4);
}

/* The same in kernel memory: the copy that the kernel acts on. */
static __always_inline void read_kernel_sockaddr(struct endpoint *to, const void *address)
{
	u16 head[2] = {};

	if (bpf_probe_read_kernel(head, sizeof(head), address))
		return;
	to->family = head[0];
	to->port = SWAP16(head[1]);
	if (head[0] == AF_INET6)
		to->known = !bpf_probe_read_kernel(to->address, 16, address + 8);
	else if (head[0] == AF_INET)
		to->known = !bpf_probe_read_kernel(to->address, 4, address + 4);
}

/* The sock if it speaks IP; *protocol tells TCP from UDP. */
static __always_inline struct sock *ip_sock(struct sock *sk, u16 *protocol, u16 *family)
{
	READ(*family, &sk->__sk_common.skc_family);
	READ(*protocol, &sk->sk_protocol);
	if (*protocol == IPPROTO_MPTCP)
		*protocol = IPPROTO_TCP;
	if (*family != AF_INET && *family != AF_INET6)
		return NULL;
	if (*protocol != IPPROTO_TCP && *protocol != IPPROTO_UDP && *protocol != IPPROTO_UDPLITE)
		return NULL;
	return sk;
}

static __always_inline struct sock *sock_behind(struct file *file, u16 *protocol, u16 *family)
{
	struct inode *inode = NULL;
	struct socket *socket = NULL;
	struct sock *sk = NULL;
	u16 mode = 0;

	if (!file)
		return NULL;
	READ(inode, &file->f_inode);
	READ(mode, &inode->i_mode);
	if ((mode & S_IFMT) != S_IFSOCK)
		return NULL;
	READ(socket, &file->private_data);
	READ(sk, &socket->sk);
	return ip_sock(sk, protocol, family);
}

static __always_inline struct sock *sock_of(u32 fd, u16 *protocol, u16 *family)
{
	return sock_behind(file_of(fd), protocol, family);
}

static __always_inline u32 netns_of(struct sock *sk)
{
	void *net = NULL;
	u32 inum = 0;

	READ(net, &sk->__sk_common.skc_net);
	READ_INUM(inum, net, net);
	return inum;
}

/* All five events begin with the same fields, in this order (schema._SOCKET). */
#define FILL(e, from, to, proto, fam, code, sk)                   \
	do {                                                      \
		e->address_family = fam;                          \
		e->protocol = proto;                              \
		e->source_port = (from)->port;                    \
		e->destination_port = (to)->port;                 \
		__builtin_memcpy(e->source_address, (from)->address, 16);    \
		__builtin_memcpy(e->destination_address, (to)->address, 16); \
		e->result = code;                                 \
		e->netns = netns_of(sk);                          \
	} while (0)

int on_set_state(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (void *)ctx->args[0];
	u64 key = (u64)sk;
	struct endpoint remote = {};
	u16 protocol = 0;

	if (ctx->args[1] == TCP_SYN_SENT && ctx->args[2] == TCP_ESTABLISHED)
		attempts.delete(&key);      /* from here on the sock itself tells */
	if (ctx->args[1] != TCP_CLOSE || ctx->args[2] != TCP_SYN_SENT)
		return 0;
	READ(protocol, &sk->sk_protocol);
	if (protocol != IPPROTO_TCP)
		return 0;
	read_remote(&remote, sk);
	attempts.update(&key, &remote);
	return 0;
}

/* `argument` is the caller's sockaddr, or NULL where there is none to fall back on. */
static __always_inline int emit_connect(struct sock *sk, u16 protocol, u16 family, s32 result, u32 marks,
					const void *argument)
{
	struct endpoint local = {}, remote = {};
	u64 key = (u64)sk;
	struct endpoint *attempt = attempts.lookup(&key);

	if (!result || result == -EINPROGRESS)
		read_remote(&remote, sk);
	else if (attempt)
		remote = *attempt;
	/* While it is in progress the entry must stay: a second connect() asks for the outcome. */
	if (attempt && result != -EINPROGRESS)
		attempts.delete(&key);
	if (!remote.known && argument) {
		read_sockaddr(&remote, argument);
		marks |= FLAG_ARGUMENT;
	}
	if (!remote.known || is_self())     /* AF_UNSPEC dissolves an association */
		return 0;
	read_local(&local, sk);
	BEGIN(s, e, event_network_connect, EVENT_NETWORK_CONNECT);
	s->flags = marks;
	FILL(e, &local, &remote, protocol, family, result, sk);
	commit(s);
	return 0;
}

int on_connect(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;
	struct sock *sk;
	u16 protocol = 0, family = 0;

	read_arguments(&call, ctx);
	sk = sock_of(call.a, &protocol, &family);
	if (!sk)
		return 0;
	return emit_connect(sk, protocol, family, call.result, call.flags, (void *)call.b);
}

/* Allowed to begin: the address is the kernel's own copy, the outcome is not known yet. */
static __always_inline int emit_attempt(struct socket *socket, const void *address, u32 marks)
{
	struct endpoint local = {}, remote = {};
	struct sock *sk = NULL;
	u16 protocol = 0, family = 0;
	u32 state = 0;

	READ(state, &socket->state);
	if (state == SS_CONNECTING)         /* asks again; io_uring does so by itself */
		return 0;
	READ(sk, &socket->sk);
	sk = ip_sock(sk, &protocol, &family);
	if (!sk)
		return 0;
	read_kernel_sockaddr(&remote, address);
	if (!remote.known || is_self())
		return 0;
	read_local(&local, sk);
	BEGIN(s, e, event_network_connect, EVENT_NETWORK_CONNECT);
	s->flags = marks;
	FILL(e, &local, &remote, protocol, family, -EINPROGRESS, sk);
	commit(s);
	return 0;
}

static __always_inline void decided_socket_connect(u64 socket, u64 address, u64 c, u64 d)
{
	emit_attempt((void *)socket, (void *)address, is_io_worker() ? FLAG_IO_URING : 0);
}
ON_DECISION(socket_connect, 2)

static __always_inline int emit_accepted(struct sock *sk, u16 protocol, u16 family, u32 marks)
{
	struct endpoint local = {}, remote = {};

	if (!sk || is_self())
		return 0;
	read_local(&local, sk);
	read_remote(&remote, sk);
	BEGIN(s, e, event_network_accept, EVENT_NETWORK_ACCEPT);
	s->flags = marks;
	FILL(e, &remote, &local, protocol, family, 0, sk);
	commit(s);
	return 0;
}

static __always_inline int emit_accept(u32 fd, u32 marks)
{
	u16 protocol = 0, family = 0;
	struct sock *sk = sock_of(fd, &protocol, &family);

	return emit_accepted(sk, protocol, family, marks);
}

static __always_inline int accepted(struct pt_regs *ctx, u32 marks)
{
	u16 protocol = 0, family = 0;
	struct sock *sk = NULL;

	READ(sk, &ctx->ax);     /* NULL where there was nobody to accept */
	if (!sk)
		return 0;
	return emit_accepted(ip_sock(sk, &protocol, &family), protocol, family, marks);
}

int kretprobe_inet_csk_accept(struct pt_regs *ctx)
{
	return accepted(ctx, is_io_worker() ? FLAG_IO_URING : 0);
}

#ifndef HAVE_URING_COMPLETE
int kretprobe_uring_inet_csk_accept(struct pt_regs *ctx)
{
	return in_uring() ? accepted(ctx, FLAG_IO_URING) : 0;
}

int kprobe_uring_security_socket_connect(struct pt_regs *ctx)
{
	void *socket = NULL, *address = NULL;

	if (!in_uring())
		return 0;
	READ(socket, &ctx->di);
	READ(address, &ctx->si);
	return emit_attempt(socket, address, FLAG_IO_URING);
}
#endif

int on_accept(struct bpf_raw_tracepoint_args *ctx)
{
	struct arguments call;

	if ((s64)ctx->args[1] < 0)
		return 0;
	read_arguments(&call, ctx);
	return emit_accept(call.result, call.flags);
}

#ifdef HAVE_URING_COMPLETE
#define IORING_OP_ACCEPT 13
#define IORING_OP_CONNECT 16

int on_uring_network(struct bpf_raw_tracepoint_args *ctx)
{
	struct completion done = {};
	struct file *file = NULL;
	struct sock *sk;
	u16 protocol = 0, family = 0;

	read_completion(&done, ctx);
	if (done.opcode == IORING_OP_ACCEPT && done.result >= 0)
		return emit_accept(done.result, FLAG_IO_URING);
	if (done.opcode != IORING_OP_CONNECT)
		return 0;
	READ(file, &((struct io_kiocb *)ctx->args[1])->file);
	sk = sock_behind(file, &protocol, &family);
	if (!sk)
		return 0;
	return emit_connect(sk, protocol, family, done.result, FLAG_IO_URING, NULL);
}
#endif

#define LOCAL(name, event, TYPE, ...)                             \
int name(struct bpf_raw_tracepoint_args *ctx)                     \
{                                                                 \
	struct arguments call;                                    \
	struct endpoint local = {}, none = {};                    \
	struct sock *sk;                                          \
	u16 protocol = 0, family = 0;                             \
								  \
	if (ctx->args[1] || is_self())                            \
		return 0;                                         \
	read_arguments(&call, ctx);                               \
	sk = sock_of(call.a, &protocol, &family);                 \
	if (!sk)                                                  \
		return 0;                                         \
	read_local(&local, sk);                                   \
	BEGIN(s, e, event, TYPE);                                 \
	s->flags = call.flags;                                    \
	FILL(e, &local, &none, protocol, family, 0, sk);          \
	__VA_ARGS__;                                              \
	commit(s);                                                \
	return 0;                                                 \
}
LOCAL(on_bind, event_network_bind, EVENT_NETWORK_BIND)
LOCAL(on_listen, event_network_listen, EVENT_NETWORK_LISTEN, e->backlog = call.b)

#define DECIDED_LOCAL(name, event, TYPE, ...)                                             \
static __always_inline int local_##name(struct socket *socket, u64 b)                     \
{                                                                                         \
	struct endpoint local = {}, none = {};                                            \
	struct sock *sk = NULL;                                                           \
	u16 protocol = 0, family = 0;                                                     \
											  \
	READ(sk, &socket->sk);                                                            \
	sk = ip_sock(sk, &protocol, &family);                                             \
	if (!sk || is_self())                                                             \
		return 0;                                                                 \
	read_local(&local, sk);                                                           \
	BEGIN(s, e, event, TYPE);                                                         \
	s->flags = 0;                                                                     \
	__VA_ARGS__;                                                                      \
	FILL(e, &local, &none, protocol, family, 0, sk);                                  \
	commit(s);                                                                        \
	return 0;                                                                         \
}                                                                                         \
static __always_inline void decided_##name(u64 socket, u64 b, u64 c, u64 d)               \
{                                                                                         \
	local_##name((void *)socket, b);                                                  \
}                                                                                         \
ON_DECISION(name, 2)
DECIDED_LOCAL(socket_bind, event_network_bind, EVENT_NETWORK_BIND, read_kernel_sockaddr(&local, (void *)b))
DECIDED_LOCAL(socket_listen, event_network_listen, EVENT_NETWORK_LISTEN, e->backlog = b)

/*
 * Datagrams that need no connect(). A handler notes the call; of its messages, one program reports the
 * destinations, another one the DNS queries.
 */
#define MSG_FASTOPEN 0x20000000
#define DNS_PORT 53
#define DNS_HEADER 12
#define MESSAGES 8          /* looked at of one sendmmsg(); glibc's resolver sends A and AAAA in one call: two */

struct sending {
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
	if (sending->protocol == IPPROTO_TCP)       /* a connection that the send begins */
		return emit_connect(sending->sk, IPPROTO_TCP, sending->family, sending->result < 0 ? sending->result : 0,
				    sending->flags, (void *)address);
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

	if (!sending || sending->protocol == IPPROTO_TCP)
		return 0;
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
	return 0;
}
