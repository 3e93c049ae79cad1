# What an administrator does by hand: accounts, sudo, a look into logs, configuration that is not about security.
id dev > /dev/null 2>&1 || useradd --create-home --shell /bin/bash dev
adduser --disabled-password --gecos '' carol
usermod -aG adm,sudo carol
echo 'carol:a long enough password' | chpasswd
passwd -S carol; chage -l carol; getent passwd carol; groups carol
printf 'carol ALL=(ALL) NOPASSWD: ALL\n' > /tmp/sudoers.new
EDITOR='cp /tmp/sudoers.new' visudo -f /etc/sudoers.d/carol
chmod 440 /etc/sudoers.d/carol
visudo -c
runuser -l carol -c 'sudo -n true; sudo -n apt-get check; sudo -n tail -5 /var/log/dpkg.log; sudo -n -u dev id; sudo -n ls /root; sudo -n service cron status' || true
runuser -l carol -c 'ls -la; cd /var/log; ls -l; grep -i error dpkg.log | tail; less +G dpkg.log | head -3; vim.tiny -es -c "normal Gohello" -c wq ~/notes.txt; cat ~/notes.txt; history | tail -1; du -sh . ' || true
sed -i 's/^#\?net.ipv4.ip_forward.*/net.ipv4.ip_forward=0/' /etc/sysctl.conf || true
sysctl --system > /dev/null 2>&1 || true
service --status-all > /dev/null 2>&1 || true
ps -ef | grep nginx || true
top -b -n 1 | head -5
pgrep -a cron || true
lsof -v > /dev/null 2>&1 || true
killall -0 cron || true
mount | column -t | head -3
dmesg > /dev/null 2>&1 || true
env; printenv PATH; which python3 git nginx; type ls
cp -a /etc/nginx /root/nginx.bak; diff -r /etc/nginx /root/nginx.bak
chmod -R o-w /srv; chown -R dev: /srv
ln -sf /usr/share/zoneinfo/Europe/Vienna /etc/localtime
deluser --remove-home carol; rm /etc/sudoers.d/carol
