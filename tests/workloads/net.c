/* net [N=23] [M=7]: sockets connected, accepted, bound, listening; datagrams with and without a connection. Loopback only.
 *
 * N connects of each kind (IPv4 and IPv6, TCP and UDP), M of each of the rarer kinds. Addresses and
 * ports are what getsockname() and getpeername() said, results what the call returned.
 */
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};
static const char *const dns_v4 = "127.0.0.77", *const dns_v6 = "::1";

static socklen_t size_of(int family)
{
	return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static union address address(int family, const char *host, int port)
{
	union address a = {0};
	a.any.sa_family = (sa_family_t)family;
	if (family == AF_INET) {
		a.v4.sin_port = htons((uint16_t)port);
		must(inet_pton(family, host, &a.v4.sin_addr) - 1, host);
	} else {
		a.v6.sin6_port = htons((uint16_t)port);
		must(inet_pton(family, host, &a.v6.sin6_addr) - 1, host);
	}
	return a;
}

static int port_of(const union address *a)
{
	return ntohs(a->any.sa_family == AF_INET ? a->v4.sin_port : a->v6.sin6_port);
}

static void json_address(const char *ip, const char *port, const union address *a)
{
	char host[INET6_ADDRSTRLEN];
	if (a->any.sa_family == AF_INET)
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host);
	else
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host);
	json_str(ip, host);
	json_num(port, port_of(a));
}

static union address local(int fd)
{
	union address a = {0};
	socklen_t size = sizeof a;
	must(getsockname(fd, &a.any, &size), "getsockname");
	return a;
}

static void row(const char *op, const char *how, int family, int type, const union address *source,
		const union address *destination, int error)
{
	json_open(NULL, '{');
	json_str("op", op);
	json_str("how", how);
	json_str("transport", type == SOCK_STREAM ? "tcp" : strcmp(how, "udp-lite") ? "udp" : how);
	json_str("type", family == AF_INET ? "ipv4" : "ipv6");
	json_num("errno", error);
	if (source)
		json_address("source_ip", "source_port", source);
	if (destination)
		json_address("destination_ip", "destination_port", destination);
}

static int make(int family, int type)
{
	return (int)must(socket(family, type | SOCK_CLOEXEC, 0), "socket");
}

static const char *loopback(int family)
{
	return family == AF_INET ? "127.0.0.1" : "::1";
}

/* A bound socket; `ask` is the port asked for, the row says which one it became. */
static int bound(const char *how, int family, int type, const char *host, int ask)
{
	int fd = make(family, type), one = 1;
	union address a = address(family, host, ask);
	must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
	if (family == AF_INET6)
		must(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one), "IPV6_V6ONLY");
	must(bind(fd, &a.any, size_of(family)), "bind");
	a = local(fd);
	row("bind", how, family, type, &a, NULL, 0);
	json_close('}');
	return fd;
}

static int listening(const char *how, int family, int backlog)
{
	int fd = bound(how, family, SOCK_STREAM, loopback(family), 0);
	union address a = local(fd);
	must(listen(fd, backlog), "listen");
	row("listen", how, family, SOCK_STREAM, &a, NULL, 0);
	json_num("backlog", backlog);
	json_close('}');
	return fd;
}

static void connected(const char *how, int fd, int family, int type, const union address *to, socklen_t size, int flags)
{
	int error = connect(fd, &to->any, size) ? errno : 0;
	union address from = local(fd);
	row("connect", how, family, type, error && error != EINPROGRESS ? NULL : &from, to, error);
	json_num("flags", flags);
	json_close('}');
}

static void accepted(const char *how, int listener, int family, int four)
{
	union address peer = {0}, here;
	socklen_t size = sizeof peer;
	int fd = (int)must(four ? accept4(listener, &peer.any, &size, SOCK_CLOEXEC) : accept(listener, NULL, NULL), "accept");
	size = sizeof peer;
	must(getpeername(fd, &peer.any, &size), "getpeername");
	here = local(fd);
	row("accept", how, family, SOCK_STREAM, &peer, &here, 0);
	json_close('}');
	close(fd);
}

static void tcp(int family, long n, long m)
{
	int listener = listening("tcp", family, 41);
	union address to = local(listener);
	for (long i = 0; i < n; i++) {
		int fd = make(family, SOCK_STREAM);
		connected("plain", fd, family, SOCK_STREAM, &to, size_of(family), 0);
		accepted(i % 2 ? "accept4" : "accept", listener, family, (int)(i % 2));
		close(fd);
	}
	for (long i = 0; i < m; i++) {
		int fd = make(family, SOCK_STREAM | SOCK_NONBLOCK);
		connected("non-blocking", fd, family, SOCK_STREAM, &to, size_of(family), O_NONBLOCK);
		accepted("non-blocking", listener, family, 1);
		close(fd);
	}
	close(listener);
	int reserved = bound("closed", family, SOCK_STREAM, loopback(family), 0);
	to = local(reserved);
	for (long i = 0; i < m; i++) {
		int fd = make(family, SOCK_STREAM);
		connected("refused", fd, family, SOCK_STREAM, &to, size_of(family), 0);
		close(fd);
	}
	close(reserved);
}

static void udp(int family, long n)
{
	int receiver = bound("udp", family, SOCK_DGRAM, loopback(family), 0);
	union address to = local(receiver);
	for (long i = 0; i < n; i++) {
		int fd = make(family, SOCK_DGRAM);
		connected("plain", fd, family, SOCK_DGRAM, &to, size_of(family), 0);
		must(send(fd, "x", 1, 0), "send"); /* not port 53: no event */
		close(fd);
	}
	close(receiver);
}

/* An IPv6 socket to an IPv4 address. */
static void mapped(long m)
{
	int listener = listening("mapped", AF_INET, 7);
	union address v4 = local(listener), to = {0};
	to.v6.sin6_family = AF_INET6;
	to.v6.sin6_port = v4.v4.sin_port;
	must(inet_pton(AF_INET6, "::ffff:127.0.0.1", &to.v6.sin6_addr) - 1, "mapped");
	for (long i = 0; i < m; i++) {
		int fd = make(AF_INET6, SOCK_STREAM);
		connected("mapped", fd, AF_INET6, SOCK_STREAM, &to, sizeof to.v6, 0);
		accepted("mapped", listener, AF_INET, 1);
		close(fd);
	}
	close(listener);
}

static void reached(const char *how, int fd, int family, int type, const union address *to)
{
	union address from = local(fd);
	row("connect", how, family, type, &from, to, 0);
	json_num("flags", 0);
	json_close('}');
}

static void post(int fd, const union address *to, socklen_t size)
{
	must(sendto(fd, "x", 1, 0, &to->any, size), "sendto");
}

static void post_message(int fd, const union address *to, socklen_t size)
{
	struct iovec one = {"x", 1};
	struct msghdr message = {.msg_name = (void *)(uintptr_t)to, .msg_namelen = size, .msg_iov = &one, .msg_iovlen = 1};
	must(sendmsg(fd, &message, 0), "sendmsg");
}

/* Without connect(): the first datagram to each place is worth an event, the second is not. */
static void datagrams(int family, long m)
{
	socklen_t size = size_of(family);
	union address at[8], wrong;
	int receivers[8];
	for (int k = 0; k < 8; k++)
		at[k] = local(receivers[k] = bound("datagram", family, SOCK_DGRAM, loopback(family), 0));
	for (long i = 0; i < m; i++) {
		int fd = make(family, SOCK_DGRAM);
		for (int again = 0; again < 2; again++)
			post(fd, &at[0], size);
		reached("sendto", fd, family, SOCK_DGRAM, &at[0]);
		for (int again = 0; again < 2; again++)
			post_message(fd, &at[1], size);
		reached("sendmsg", fd, family, SOCK_DGRAM, &at[1]);
		close(fd);

		struct mmsghdr many[3] = {0};
		struct iovec one = {"x", 1};
		fd = make(family, SOCK_DGRAM);
		for (int k = 0; k < 3; k++)
			many[k].msg_hdr = (struct msghdr){.msg_name = &at[2 + k], .msg_namelen = size, .msg_iov = &one, .msg_iovlen = 1};
		if (sendmmsg(fd, many, 3, 0) != 3)
			die(81, "workload: sendmmsg");
		for (int k = 0; k < 3; k++)
			reached("sendmmsg", fd, family, SOCK_DGRAM, &at[2 + k]);
		close(fd);

		fd = make(family, SOCK_DGRAM);
		connected("datagram", fd, family, SOCK_DGRAM, &at[5], size, 0);
		post(fd, &at[5], size); /* no other place than that of the connection */
		wrong = at[4];
		struct msghdr unnamed = {.msg_name = &wrong, .msg_namelen = 0, .msg_iov = &one, .msg_iovlen = 1};
		must(sendmsg(fd, &unnamed, 0), "sendmsg"); /* a name of no length is none */
		post(fd, &at[6], size);
		reached("past the connection", fd, family, SOCK_DGRAM, &at[6]);
		must(connect(fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)), "AF_UNSPEC");
		post(fd, &at[5], size);
		reached("dissolved", fd, family, SOCK_DGRAM, &at[5]);
		close(fd);

		fd = make(family, SOCK_DGRAM);
		if (family == AF_INET) { /* which an IPv4 socket takes for AF_INET */
			union address odd = at[7];
			odd.any.sa_family = AF_UNSPEC;
			post(fd, &odd, size);
			reached("AF_UNSPEC", fd, family, SOCK_DGRAM, &at[7]);
		} else { /* an IPv4 address given to an IPv6 socket */
			union address v4 = address(AF_INET, "127.0.0.1", port_of(&at[7]));
			post(fd, &v4, sizeof v4.v4);
			reached("IPv4", fd, family, SOCK_DGRAM, &v4);
		}
		close(fd);
	}
	for (int k = 0; k < 8; k++)
		close(receivers[k]);
}

/* A connection that a send begins. */
static void fast_open(int family, long m)
{
	int listener = listening("fast open", family, 41);
	union address to = local(listener);
	for (long i = 0; i < m; i++) {
		int fd = make(family, SOCK_STREAM);
		struct iovec one = {"x", 1};
		struct msghdr message = {.msg_name = &to, .msg_namelen = size_of(family), .msg_iov = &one, .msg_iovlen = 1};
		if ((i % 2 ? sendmsg(fd, &message, MSG_FASTOPEN) : sendto(fd, "x", 1, MSG_FASTOPEN, &to.any, size_of(family))) == 1) {
			reached("fast open", fd, family, SOCK_STREAM, &to);
			accepted("fast open", listener, family, 1);
		}
		close(fd);
	}
	close(listener);
}

/* TCP and UDP under other names, where this kernel has them. */
static void protocols(int family, long m)
{
	int listener = listening("mptcp", family, 41), receiver = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDPLITE);
	union address to = local(listener), lite = address(family, loopback(family), 0);
	for (long i = 0; i < m; i++) {
		int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 262 /* IPPROTO_MPTCP */);
		if (fd >= 0) {
			connected("mptcp", fd, family, SOCK_STREAM, &to, size_of(family), 0);
			accepted("mptcp", listener, family, 1);
			close(fd);
		}
	}
	close(listener);
	if (receiver < 0)
		return;
	must(bind(receiver, &lite.any, size_of(family)), "bind");
	lite = local(receiver);
	row("bind", "udp-lite", family, SOCK_DGRAM, &lite, NULL, 0);
	json_close('}');
	for (long i = 0; i < m; i++) {
		int fd = (int)must(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDPLITE), "udp-lite");
		post(fd, &lite, size_of(family));
		reached("udp-lite", fd, family, SOCK_DGRAM, &lite);
		close(fd);
	}
	close(receiver);
}

/* Sockets of other families, a dissolved association: no events. */
static void quiet(long m)
{
	struct sockaddr_un path = {.sun_family = AF_UNIX, .sun_path = "/nonexistent/socket"};
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	int udp_fd = make(AF_INET, SOCK_DGRAM);
	for (long i = 0; i < m; i++) {
		int fd = make(AF_UNIX, SOCK_STREAM);
		if (!connect(fd, (struct sockaddr *)&path, sizeof path))
			die(80, "workload: connected to nothing");
		close(fd);
		must(connect(udp_fd, &none, sizeof none), "AF_UNSPEC");
	}
	close(udp_fd);
}

static size_t query(unsigned char *out, const char *name, int type)
{
	static uint16_t id = 1;
	memset(out, 0, 12);
	out[0] = (unsigned char)(id >> 8);
	out[1] = (unsigned char)id++;
	out[2] = 1; /* recursion desired */
	out[5] = 1; /* one question */
	size_t used = 12;
	while (*name) {
		size_t length = strcspn(name, ".");
		out[used++] = (unsigned char)length;
		memcpy(out + used, name, length);
		used += length;
		name += length + (name[length] == '.');
	}
	out[used++] = 0;
	out[used++] = 0;
	out[used++] = (unsigned char)type;
	out[used++] = 0;
	out[used++] = 1;
	return used;
}

static void asked(const char *how, int family, const union address *to, const char *name, int type, size_t bytes)
{
	row("dns", how, family, SOCK_DGRAM, NULL, to, 0);
	json_str("name", name);
	json_num("query_type", type);
	json_num("bytes", (long long)bytes);
	json_close('}');
}

static void dns(int family, long m)
{
	static const int types[] = {1, 28, 16, 15, 2};
	const char *host = family == AF_INET ? dns_v4 : dns_v6;
	int receiver = bound("dns", family, SOCK_DGRAM, host, 53);
	union address to = address(family, host, 53);
	socklen_t size = size_of(family);
	unsigned char packet[4][512];
	for (long i = 0; i < m; i++) {
		int type = types[i % 5], fd = make(family, SOCK_DGRAM);
		char *name = text("sendto-%ld.Sensor.example", i);
		size_t bytes = query(packet[0], name, type);
		must(sendto(fd, packet[0], bytes, 0, &to.any, size), "sendto 53");
		reached("dns sendto", fd, family, SOCK_DGRAM, &to);
		asked("sendto", family, &to, name, type, bytes);

		name = text("sendmsg-%ld.sensor.example", i);
		bytes = query(packet[0], name, type);
		struct iovec parts[2] = {{packet[0], 20}, {packet[0] + 20, bytes - 20}}; /* the name lies in two pieces */
		struct msghdr message = {.msg_name = &to, .msg_namelen = size, .msg_iov = parts, .msg_iovlen = 2};
		must(sendmsg(fd, &message, 0), "sendmsg 53");
		asked("sendmsg", family, &to, name, type, bytes);

		struct mmsghdr many[3] = {0};
		struct iovec one[3];
		char *names[3];
		for (int k = 0; k < 3; k++) {
			names[k] = text("sendmmsg-%ld-%d.sensor.example", i, k);
			one[k].iov_base = packet[k];
			one[k].iov_len = query(packet[k], names[k], type);
			many[k].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = size, .msg_iov = &one[k], .msg_iovlen = 1};
		}
		if (sendmmsg(fd, many, 3, 0) != 3)
			die(81, "workload: sendmmsg");
		for (int k = 0; k < 3; k++)
			asked("sendmmsg", family, &to, names[k], type, one[k].iov_len);
		close(fd);

		fd = make(family, SOCK_DGRAM);
		connected("dns", fd, family, SOCK_DGRAM, &to, size, 0);
		name = text("send-%ld.sensor.example", i);
		bytes = query(packet[0], name, type);
		must(send(fd, packet[0], bytes, 0), "send 53");
		asked("send", family, &to, name, type, bytes);
		name = text("write-%ld.sensor.example", i);
		bytes = query(packet[0], name, type);
		must(write(fd, packet[0], bytes), "write 53");
		asked("write", family, &to, name, type, bytes);
		close(fd);
	}
	close(receiver);
}

int main(int argc, char **argv)
{
	long n = number(argc, argv, 1, 23), m = number(argc, argv, 2, 7);
	json_self("net");
	json_open("operations", '[');
	tcp(AF_INET, n, m);
	tcp(AF_INET6, n, m);
	udp(AF_INET, n);
	udp(AF_INET6, n);
	mapped(m);
	quiet(m);
	datagrams(AF_INET, m);
	datagrams(AF_INET6, m);
	fast_open(AF_INET, m);
	fast_open(AF_INET6, m);
	protocols(AF_INET, m);
	protocols(AF_INET6, m);
	dns(AF_INET, m);
	dns(AF_INET6, m);
	json_close(']');
	json_close('}');
	json_print();
	return 0;
}
