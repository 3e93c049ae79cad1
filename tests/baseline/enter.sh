#!/bin/sh
# enter.sh ROOT ACTIVITY...   Runs activities in ROOT, as process 1 of namespaces that the caller has made.
# The new root is pivoted to, not only chroot'ed: programs then have the paths that they would have on a host.
set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mkdir -p proc sys dev run old
mount -t proc proc proc
mount -t sysfs -o ro sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755,size=1m dev dev
for node in null zero full random urandom tty; do
    touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 pts dev/pts
mount -t tmpfs -o mode=1777,size=256m shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd; ln -s /proc/self/fd/0 dev/stdin; ln -s /proc/self/fd/1 dev/stdout; ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755,size=64m run run
# The way to package mirrors. All else happens in a network of loopback alone.
touch run/online; mount --bind /proc/self/ns/net run/online
pivot_root . old
cd /
umount -l /old; rmdir /old
hostname baseline
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
    DEBIAN_FRONTEND=noninteractive "REQUESTS=${REQUESTS:-20000}" \
    unshare --net /bin/sh /baseline/all.sh "$@"
