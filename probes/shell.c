/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Emits      shell_line.
 * Why here   Shell built-ins make no exec event; the line as typed is seen where bash gets it.
 * Hooks      uretprobe on readline in bash (or in the libreadline that it links).
 * Misses     Shells other than bash; scripts and `bash -c`; bash binaries elsewhere or deleted.
 * Cost       One trap per line typed. Opt-in: a uprobe is a breakpoint in every process of that file.
 */
int on_readline(struct pt_regs *ctx)
{
	u64 line = 0;

	if (is_shed())
		return 0;
	READ(line, &ctx->ax);
	if (!line)                  /* end of input */
		return 0;
	BEGIN(s, e, event_shell_line, EVENT_SHELL_LINE);
	e->line = put_user(s, (void *)line, CAP_SHELL_LINE_LINE);
	commit(s);
	return 0;
}
