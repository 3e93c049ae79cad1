# systemd is really up: multi-user reached, no failed unit, and this script is a unit of it.
[ "$(cat /proc/1/comm)" = systemd ] || { echo "process 1 is not systemd"; exit 1; }
grep -q vm.service /proc/self/cgroup || { echo "not in the unit's cgroup"; exit 1; }
timeout 60 systemctl is-system-running --wait
systemctl is-active multi-user.target || { systemctl list-jobs --no-pager; exit 1; }
systemctl --failed --no-legend --no-pager
[ -z "$(systemctl --failed --no-legend)" ] || exit 1
systemd-analyze time
