/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Addresses of sockets and of what their callers name; the fields that all events of the network share.
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
	FOLLOW(socket, &file->private_data);
	FOLLOW(sk, &socket->sk);
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
