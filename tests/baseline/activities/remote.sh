# Keys, a server, logins, copies: ssh between two accounts of this host.
id dev > /dev/null 2>&1 || useradd --create-home --shell /bin/bash dev
useradd --create-home --shell /bin/bash ops
mkdir -p /run/sshd
ssh-keygen -A
/usr/sbin/sshd -p 2222 -o ListenAddress=127.0.0.1
runuser -l dev -c 'ssh-keygen -q -t ed25519 -N "" -f ~/.ssh/id_ed25519; ssh-keygen -lf ~/.ssh/id_ed25519.pub'
install -d -m 700 -o ops -g ops /home/ops/.ssh
install -m 600 -o ops -g ops /home/dev/.ssh/id_ed25519.pub /home/ops/.ssh/authorized_keys
cat > /home/dev/remote.sh <<'DAY'
set -eu
options="-q -o StrictHostKeyChecking=accept-new -o BatchMode=yes"
for n in $(seq 1 40); do ssh $options -p 2222 ops@127.0.0.1 "uptime; echo $n >> log; ls -l"; done > /dev/null
scp $options -P 2222 -r /etc/skel ops@127.0.0.1:skel
rsync -a -e "ssh $options -p 2222" /usr/share/doc/git ops@127.0.0.1:doc
git clone -q "ssh://ops@127.0.0.1:2222/home/dev/project.git" over-ssh || true
echo 'ls' | sftp $options -P 2222 ops@127.0.0.1
ssh $options -p 2222 -f -N -L 127.0.0.1:8022:127.0.0.1:2222 ops@127.0.0.1
eval "$(ssh-agent -s)"; ssh-add -q ~/.ssh/id_ed25519; ssh-add -l; ssh-agent -k
DAY
runuser -l dev -c 'bash ~/remote.sh'
pkill -u dev -x ssh || true
kill "$(cat /run/sshd.pid)"
