"""Reports as kernels of several series print them, written for these tests: formats of the kernel, invented content."""

from __future__ import annotations

TAG = "5a1e0c2bd4f69783"  # a program of ours
NAME = "on_sched_exec"
FOREIGN = "0badc0dedeadbeef"
OWN = {TAG: NAME, "77aa77aa77aa77aa": "on_file_open"}


def stamped(text: str, start: float = 812.5, prefix: str = "") -> str:
    """Lines with the time that printk puts before each."""
    return "".join(f"{prefix}[{start + number / 1000:12.6f}] {line}\n" for number, line in enumerate(text.splitlines()))


NULL_IN_OWN_5_10 = f"""\
BUG: kernel NULL pointer dereference, address: 0000000000000018
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
PGD 0 P4D 0
Oops: 0000 [#1] SMP PTI
CPU: 1 PID: 2211 Comm: make Tainted: G           OE     5.10.0-33-amd64 #1 Debian 5.10.226-1
Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2 04/01/2014
RIP: 0010:bpf_prog_{TAG}_{NAME}+0x4c/0x9f0
Code: 48 89 e5 48 81 ec 90 00 00 00 53 41 55 <48> 8b 7f 18 41 56
RSP: 0018:ffffb3a9c0c5fd58 EFLAGS: 00010246
RAX: 0000000000000000 RBX: ffff95c7c2b4a000 RCX: 0000000000000000
CR2: 0000000000000018 CR3: 0000000103f1e000 CR4: 0000000000770ee0
Call Trace:
 ? kmem_cache_free+0x1f/0x3a0
 bpf_trace_run3+0x32/0x90
 __bpf_trace_sched_process_exec+0x10/0x20
 bprm_execve+0x5f1/0x650
 do_execveat_common.isra.0+0x192/0x1c0
 __x64_sys_execve+0x39/0x50
 do_syscall_64+0x33/0x80
 entry_SYSCALL_64_after_hwframe+0x62/0xc7
RIP: 0033:0x7f3a8d8ecb07
Modules linked in: tun(E) vbox_guest(OE) virtio_net virtio_blk [last unloaded: loop]
CR2: 0000000000000018
---[ end trace 9f1c3b1b7d0b2a11 ]---
Kernel panic - not syncing: Fatal exception
Kernel Offset: 0x1a400000 from 0xffffffff81000000
---[ end Kernel panic - not syncing: Fatal exception ]---
"""

GPF_IN_HELPER_6_1 = f"""\
general protection fault, probably for non-canonical address 0xdead000000000110: 0000 [#1] PREEMPT SMP NOPTI
CPU: 0 PID: 901 Comm: sshd Not tainted 6.1.0-25-amd64 #1 Debian 6.1.106-3
RIP: 0010:copy_from_kernel_nofault+0x24/0x120
RSP: 0018:ffffa8a1406f3c40 EFLAGS: 00010202
Call Trace:
 <TASK>
 ? __die_body.cold+0x1a/0x1f
 ? exc_general_protection+0x1be/0x420
 ? asm_exc_general_protection+0x22/0x30
 bpf_probe_read_kernel+0x1d/0x50
 bpf_prog_{TAG}_{NAME}+0x2b1/0x9f0
 bpf_trace_run2+0x54/0xd0
 security_file_open+0x2c/0x40
 do_syscall_64+0x58/0xc0
 </TASK>
Modules linked in: nft_ct ext4
---[ end trace 0000000000000000 ]---
"""

OOPS_IN_DRIVER_IRQ_6_12 = f"""\
BUG: unable to handle page fault for address: ffffcf8b00000008
#PF: supervisor write access in kernel mode
Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: 3 UID: 0 PID: 4412 Comm: cc1 Tainted: P           OE      6.12.9-amd64 #1 PREEMPT(voluntary)  Debian 6.12.9-1
Tainted: [P]=PROPRIETARY_MODULE, [O]=OOT_MODULE, [E]=UNSIGNED_MODULE
RIP: 0010:acme_rx_poll+0x1aa/0x400 [acme_net]
Call Trace:
 <IRQ>
 ? __die_body.cold+0x19/0x27
 ? page_fault_oops+0x15a/0x2d0
 __napi_poll+0x28/0x1b0
 net_rx_action+0x2ea/0x3a0
 handle_softirqs+0xd5/0x280
 __irq_exit_rcu+0xa8/0xd0
 common_interrupt+0x81/0xa0
 </IRQ>
 <TASK>
 asm_common_interrupt+0x22/0x40
RIP: 0010:bpf_prog_{TAG}_{NAME}+0x88/0x9f0
RSP: 0018:ffffb2c7c0d3fc98 EFLAGS: 00000246
 bpf_trace_run3+0x7e/0x170
 bprm_execve+0x4a1/0x600
 do_syscall_64+0x82/0x190
 </TASK>
Modules linked in: acme_net(POE) overlay
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: Fatal exception in interrupt
"""

FOREIGN_PROGRAM_7_0 = f"""\
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor instruction fetch in kernel mode
Oops: Oops: 0010 [#1] SMP NOPTI
CPU: 2 UID: 1000 PID: 7001 Comm: node Kdump: loaded Not tainted 7.0.4-cloud-amd64 #1 PREEMPT(lazy)  Debian 7.0.4-1
RIP: 0010:0x0
Call Trace:
 <TASK>
 bpf_prog_{FOREIGN}_trace_connect+0x1f2/0x3d0
 bpf_trampoline_6442541871+0x54/0x140
 tcp_v4_connect+0x5/0x4b0
 __x64_sys_connect+0x18/0x30
 </TASK>
Modules linked in: tls
---[ end trace 0000000000000000 ]---
"""

SYSRQ_6_1 = """\
sysrq: Trigger a crash
Kernel panic - not syncing: sysrq triggered crash
CPU: 0 PID: 388 Comm: sh Not tainted 6.1.0-25-cloud-amd64 #1 Debian 6.1.106-3
Call Trace:
 <TASK>
 dump_stack_lvl+0x44/0x5c
 panic+0x118/0x2ed
 sysrq_handle_crash+0x16/0x20
 __handle_sysrq.cold+0x48/0x11c
 write_sysrq_trigger+0x24/0x40
 proc_reg_write+0x53/0xa0
 vfs_write+0xca/0x3f0
 ksys_write+0x6b/0xf0
 do_syscall_64+0x58/0xc0
RIP: 0033:0x7f2c1b2f31e0
 </TASK>
---[ end Kernel panic - not syncing: sysrq triggered crash ]---
"""

SYSRQ_5_10 = SYSRQ_6_1.replace(" <TASK>\n", "").replace(" </TASK>\n", "").replace("6.1.0-25-cloud", "5.10.0-33-cloud")

SOFT_LOCKUP_6_12 = """\
watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [kworker/1:2:4711]
Modules linked in: dm_slow(OE) dm_mod
CPU: 1 UID: 0 PID: 4711 Comm: kworker/1:2 Tainted: G           OEL     6.12.9-amd64 #1 PREEMPT(voluntary)
Workqueue: dm_slow_wq slow_work_fn [dm_slow]
RIP: 0010:native_queued_spin_lock_slowpath+0x6e/0x2d0
Call Trace:
 <IRQ>
 ? watchdog_timer_fn+0x1e1/0x260
 ? __hrtimer_run_queues+0x112/0x2a0
 ? asm_sysvec_apic_timer_interrupt+0x1a/0x20
 </IRQ>
 <TASK>
 ? native_queued_spin_lock_slowpath+0x6e/0x2d0
 _raw_spin_lock_irqsave+0x44/0x50
 slow_work_fn+0x31/0x90 [dm_slow]
 process_one_work+0x174/0x330
 worker_thread+0x24d/0x380
 </TASK>
Kernel panic - not syncing: softlockup: hung tasks
CPU: 1 UID: 0 PID: 4711 Comm: kworker/1:2 Tainted: G           OEL     6.12.9-amd64 #1 PREEMPT(voluntary)
Call Trace:
 <IRQ>
 dump_stack_lvl+0x5d/0x80
 panic+0x118/0x2f0
 watchdog_timer_fn.cold+0xc/0x1a
 </IRQ>
"""

HARD_LOCKUP_6_18 = """\
watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3
Modules linked in: gpu_drv(OE)
CPU: 3 UID: 0 PID: 0 Comm: swapper/3 Tainted: G           OE       6.18.2 #1 PREEMPT(lazy)
RIP: 0010:gpu_wait_reg+0x21/0x60 [gpu_drv 4f1d0f2ac3b58e6f0d9c1b2a394857660f1e2d3c]
Call Trace:
 <TASK>
 gpu_irq_handler+0x99/0x1b0 [gpu_drv 4f1d0f2ac3b58e6f0d9c1b2a394857660f1e2d3c]
 </TASK>
"""

HUNG_TASK_5_10 = """\
INFO: task backup:3301 blocked for more than 120 seconds.
      Not tainted 5.10.0-33-amd64 #1 Debian 5.10.226-1
"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.
task:backup          state:D stack:    0 pid: 3301 ppid:     1 flags:0x00004000
Call Trace:
 __schedule+0x282/0x870
 schedule+0x46/0xb0
 rpc_wait_bit_killable+0x1e/0x90 [sunrpc]
 nfs4_do_close+0x2c2/0x360 [nfsv4]
 do_syscall_64+0x33/0x80
"""

RCU_STALL_6_1 = f"""\
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
rcu: 	1-...0: (1 GPs behind) idle=a1d4/1/0x4000000000000000 softirq=9142/9143 fqs=2610
	(detected by 0, t=5252 jiffies, g=20121, q=1411 ncpus=2)
Sending NMI from CPU 0 to CPUs 1:
NMI backtrace for cpu 1
CPU: 1 PID: 655 Comm: cat Not tainted 6.1.0-25-amd64 #1 Debian 6.1.106-3
RIP: 0010:bpf_prog_{TAG}_{NAME}+0x61/0x9f0
Call Trace:
 <NMI>
 ? nmi_cpu_backtrace.cold+0x1b/0x76
 </NMI>
 <TASK>
 bpf_trace_run2+0x54/0xd0
 do_syscall_64+0x58/0xc0
 </TASK>
"""

WARNING_5_10 = """\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 77 at drivers/gpu/acme/fence.c:210 acme_fence_wait+0x2f/0x80 [acme]
Modules linked in: acme(E)
CPU: 0 PID: 77 Comm: Xorg Tainted: G            E     5.10.0-33-amd64 #1 Debian 5.10.226-1
RIP: 0010:acme_fence_wait+0x2f/0x80 [acme]
Call Trace:
 acme_ioctl+0x91/0x2b0 [acme]
 __x64_sys_ioctl+0x8b/0xc0
---[ end trace 1f2e3d4c5b6a7988 ]---
"""

WARNING_7_0 = f"""\
------------[ cut here ]------------
[idx >= size] WARNING follows
WARNING: kernel/trace/bpf_trace.c:2077 at bpf_probe_read_kernel_common+0x40/0x60, CPU#2: ld.so/x/3120
Modules linked in:
CPU: 2 UID: 0 PID: 3120 Comm: ld.so/x Not tainted 7.0.4-cloud-amd64 #1 PREEMPT(lazy)  Debian 7.0.4-1
RIP: 0010:bpf_probe_read_kernel_common+0x47/0x60
Call Trace:
 <TASK>
 bpf_prog_{TAG}_{NAME}+0x2b1/0x9f0
 bpf_trace_run2+0x54/0xd0
 </TASK>
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: kernel: panic_on_warn set ...
"""

KASAN_6_1 = """\
==================================================================
BUG: KASAN: slab-out-of-bounds in acme_copy+0x5e/0x110 [acme]
Write of size 8 at addr ffff88810b8a6c18 by task insmod/1200

CPU: 1 PID: 1200 Comm: insmod Tainted: G           OE      6.1.0-25-amd64 #1 Debian 6.1.106-3
Call Trace:
 <TASK>
 dump_stack_lvl+0x45/0x5d
 print_report+0x17b/0x4b4
 kasan_report+0xb9/0xf0
 acme_copy+0x5e/0x110 [acme]
 </TASK>

Allocated by task 1200:
 kasan_save_stack+0x1c/0x40
 other_alloc+0x11/0x90 [innocent]
"""

BUG_5_10 = """\
------------[ cut here ]------------
kernel BUG at mm/slub.c:308!
invalid opcode: 0000 [#1] SMP NOPTI
CPU: 2 PID: 512 Comm: kworker/2:1 Not tainted 5.10.0-33-amd64 #1 Debian 5.10.226-1
RIP: 0010:__slab_free+0x2b0/0x4a0
Call Trace:
 kfree+0x392/0x410
 __vfs_removexattr+0x10/0x20
---[ end trace 9f1c3b1b7d0b2a11 ]---
"""

KILLED_INIT_6_12 = """\
Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00
CPU: 0 UID: 0 PID: 1 Comm: systemd Not tainted 6.12.9-amd64 #1 PREEMPT(voluntary)
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 panic+0x118/0x2f0
 do_exit.cold+0x15/0x16
 </TASK>
"""

MACHINE_CHECK_6_1 = """\
mce: [Hardware Error]: CPU 4: Machine Check Exception: 5 Bank 4: b200000000070f0f
Kernel panic - not syncing: Fatal local machine check
"""

VERIFIER_6_12 = """\
BUG: kernel NULL pointer dereference, address: 0000000000000040
Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 1 UID: 0 PID: 940 Comm: sensor-load Not tainted 6.12.9-amd64 #1 PREEMPT(voluntary)
RIP: 0010:do_check+0x1200/0x3f00
Call Trace:
 <TASK>
 bpf_check+0x1b0/0x2d0
 bpf_prog_load+0x700/0xb80
 __sys_bpf+0x9ce/0x2790
 do_syscall_64+0x82/0x190
 </TASK>
---[ end trace 0000000000000000 ]---
"""

NETDEV_6_1 = """\
------------[ cut here ]------------
NETDEV WATCHDOG: eth0 (acme_net): transmit queue 0 timed out
WARNING: CPU: 2 PID: 0 at net/sched/sch_generic.c:525 dev_watchdog+0x207/0x210
NETDEV WATCHDOG: eth0 (acme_net): transmit queue 0 timed out
CPU: 2 PID: 0 Comm: swapper/2 Not tainted 6.1.0-25-amd64 #1 Debian 6.1.106-3
RIP: 0010:dev_watchdog+0x207/0x210
Call Trace:
 <IRQ>
 call_timer_fn+0x27/0x130
 </IRQ>
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: panic_on_warn set ...
"""
