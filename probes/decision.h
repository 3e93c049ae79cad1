/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Programs on a function of the kernel: a kprobe gets its registers, fentry and LSM its arguments.
 * `body` takes four u64, of which the first `arguments` are meant. BCC finds fentry and LSM programs
 * by the names that its own macros give them. WITH_ names the kinds that this load may need.
 */
#ifdef WITH_KPROBE
#define ON_ENTRY(function, body)                                                                   \
int kprobe_##function(struct pt_regs *ctx)                                                         \
{                                                                                                  \
	u64 a = 0, b = 0, c = 0, d = 0;                                                            \
	if (is_shed())                                                                             \
		return 0;                                                                          \
	READ(a, &ctx->di); READ(b, &ctx->si); READ(c, &ctx->dx); READ(d, &ctx->cx);                \
	body(a, b, c, d);                                                                          \
	return 0;                                                                                  \
}
#else
#define ON_ENTRY(function, body)
#endif
#ifdef WITH_FENTRY
#define ON_FENTRY(function, body, arguments) \
	KFUNC_PROBE(function, TAKE_##arguments) { if (!is_shed()) body(GIVE_##arguments); return 0; }
#else
#define ON_FENTRY(function, body, arguments)
#endif
#ifdef WITH_LSM
#define ON_LSM(name, arguments) \
	LSM_PROBE(name, TAKE_##arguments) { if (!is_shed()) decided_##name(GIVE_##arguments); return 0; }
#else
#define ON_LSM(name, arguments)
#endif
#define ON_FUNCTION(function, body, arguments)  ON_ENTRY(function, body) ON_FENTRY(function, body, arguments)
#define ON_DECISION(name, arguments) \
	ON_FUNCTION(security_##name, decided_##name, arguments) ON_LSM(name, arguments)
#define TAKE_1 void *a
#define TAKE_2 TAKE_1, void *b
#define TAKE_3 TAKE_2, void *c
#define TAKE_4 TAKE_3, void *d
#define GIVE_1 (u64)a, 0, 0, 0
#define GIVE_2 (u64)a, (u64)b, 0, 0
#define GIVE_3 (u64)a, (u64)b, (u64)c, 0
#define GIVE_4 (u64)a, (u64)b, (u64)c, (u64)d
