"""Boots the kernels that users run, in qemu without KVM, and runs guest tests in them.

    python -m tests.vm [--kernel 6.12] [--test smoke]

host.py: what the machine must have; the cache; private apt configuration.
images.py: kernels, the root image, the sensor's wheels, the initrd of one run.
machine.py: one boot, and the verdict on it.
matrix.py: which tests run on which kernel, and the tables at the end.
guest/: what runs inside.
"""
