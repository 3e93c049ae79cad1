# Containers: podman where it works without network, and namespaces by unshare.
online() { nsenter --net=/run/online "$@"; }
online apt-get -qq install -y --download-only --no-install-recommends podman crun busybox-static
apt-get -qq install -y --no-install-recommends podman crun busybox-static
mkdir -p /srv/image/bin /srv/image/tmp
cp /bin/busybox /srv/image/bin/
for applet in sh ls cat sleep wget httpd id hostname; do ln -sf busybox "/srv/image/bin/$applet"; done
tar -C /srv/image -cf /srv/image.tar .
if podman --storage-driver=vfs import -q /srv/image.tar local/busybox > /dev/null; then
    for n in $(seq 1 10); do
        podman --storage-driver=vfs --cgroup-manager=cgroupfs run --rm --network none --cgroups=disabled local/busybox \
            sh -c 'id; hostname; ls /; cat /proc/self/cgroup; echo x > /tmp/x; sleep 0' && echo "podman ran"
    done
    printf 'FROM local/busybox\nRUN ["/bin/sh", "-c", "echo hello > /etc-hello"]\nCMD ["/bin/sh"]\n' > /srv/Containerfile
    podman --storage-driver=vfs build -q --network none --isolation chroot -t local/app -f /srv/Containerfile /srv || true
    podman --storage-driver=vfs images
fi || true
for n in $(seq 1 20); do
    unshare --mount --pid --fork --uts --ipc --net --mount-proc chroot /srv/image /bin/sh -c 'hostname; ls /; echo y > /tmp/y; cat /tmp/y'
done
