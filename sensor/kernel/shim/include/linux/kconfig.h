/* Stands in for the kernel's header package, of which BCC includes only what is in this tree. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_64BIT 1
