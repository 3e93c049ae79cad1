/* The loader passes LINUX_VERSION_CODE of the running kernel with -D. */
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
