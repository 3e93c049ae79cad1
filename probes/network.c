/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      network_connect, network_accept, network_bind, network_listen. Datagrams: datagram.c.
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
 * Misses     io_uring but for connect and accept; the 32-bit socketcall(); raw and other sockets.
 *            Where only the caller's sockaddr is known (a connect that failed before it had a route) the
 *            record is marked FLAG_ARGUMENT.
 * Cost       A TCP state change costs one program; the rest is paid per call that is reported.
 */
BPF_HASH(attempts, u64, struct endpoint, 4096);     /* struct sock * -> where its TCP connect goes */

int on_set_state(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (void *)ctx->args[0];
	u64 key = (u64)sk;
	struct endpoint remote = {};
	u16 protocol = 0;

	if (is_shed())
		return 0;
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

	if (is_shed())
		return 0;
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

	if (is_shed() || !in_uring())
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

	if (is_shed())
		return 0;
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
