# What a host does by itself: cron's jobs, rotation of logs, temporary files, backups, health checks.
echo 'APT::Periodic::RandomSleep "0";' > /etc/apt/apt.conf.d/99-at-once # else up to half an hour
cron
crontab -l -u root 2> /dev/null || true
echo '*/5 * * * * /usr/bin/true' | crontab -u dev -
crontab -l -u dev
for when in hourly daily weekly monthly; do run-parts --report "/etc/cron.$when" || true; done
rsyslogd || true
for n in $(seq 1 200); do logger -t app "line $n" || true; done
logrotate -f /etc/logrotate.conf || true
systemd-tmpfiles --create --remove --clean || true
systemd-sysusers || true
tmpreaper --test 7d /tmp || true
mkdir -p /var/backups/nightly
tar czf /var/backups/nightly/etc.tar.gz /etc
rsync -a --delete /etc/ /var/backups/nightly/etc/
find /var/log -name '*.gz' -mtime +30 -delete
find / -xdev -type f -size +20M > /dev/null
sha256sum /usr/bin/[a-c]* > /var/backups/nightly/sums || true
ldconfig
update-ca-certificates
locale-gen en_GB.UTF-8 || true
mandb -q || true
update-alternatives --list editor || true
for n in $(seq 1 30); do
    df -h / ; free; uptime; ps aux; ss -tlnp; ip -br addr; cat /proc/loadavg /proc/meminfo; w; last -1; vmstat; id; hostname; date; uname -r
done > /dev/null 2>&1 || true
