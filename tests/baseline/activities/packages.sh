# Updates, installations with their package scripts and services, an upgrade, removals.
online() { nsenter --net=/run/online "$@"; }
# Downloads need the machine's network; what dpkg starts must not listen there.
install() { online apt-get -qq install -y --download-only "$@"; apt-get -qq install -y "$@"; }
online apt-get update
install --no-install-recommends build-essential ca-certificates git openssh-server openssh-client cron logrotate rsyslog \
    sudo curl wget rsync sqlite3 apache2-utils nginx-light python3-venv python3-pip python3-dev systemd less vim-tiny \
    bzip2 xz-utils zip unzip procps psmisc iproute2 bsdextrautils file tmpreaper dbus man-db locales
install --no-install-recommends postgresql redis-server
online apt-get -qq upgrade -y --download-only
apt-get -qq upgrade -y
install --no-install-recommends emacs-nox imagemagick texinfo gettext
apt-get -qq purge -y emacs-nox texinfo
apt-get -qq autoremove -y
apt-get clean
dpkg -l > /dev/null
dpkg -V > /dev/null || true
apt-cache search daemon > /dev/null
apt-mark showmanual > /dev/null
