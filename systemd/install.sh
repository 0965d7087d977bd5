#!/bin/sh
# Install Muster as services of this machine, from a checkout of its source. Run it again after an
# update: it changes what is different, and never your configuration or data.
#
#   sh systemd/install.sh server [--ingest]     the match server; with --ingest the MQTT consumer
#   sh systemd/install.sh agent                 an edge box
#
# The program is built of a copy of the source, so nothing is left in the checkout. Afterwards
# `sudo match-server …` and `sudo edge-agent …` act as the services do (/usr/local/bin).
#
# DESTDIR=/folder installs below a folder and starts nothing. --files leaves the program alone (no
# virtual environment, no models): for packagers, and for whoever changed no more than a unit.
# PYTHON=/path/to/python3 chooses another Python than the system's; the service's user must reach it.
set -eu
cd "$(dirname "$0")/.."
root=${DESTDIR:-}
program=/opt/muster
units=/etc/systemd/system
shared_models=/var/lib/muster-models # of versions that kept one folder for both services
scratch=
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

role=${1:-}
case $role in
server) unit=match-server other=edge-agent user=muster state=/var/lib/muster extra=server ;;
agent) unit=edge-agent other=match-server user=muster-agent state=/var/lib/muster-agent extra=edge ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
shift
ingest= files=
for option in "$@"; do
    case $option in
    --ingest) [ "$role" = server ] || die "--ingest belongs to a server"; ingest=yes ;;
    --files) files=yes ;;
    *) die "unknown option $option" ;;
    esac
done
[ -n "$root" ] || [ "$(id -u)" = 0 ] || die "Run this as root (sudo sh systemd/install.sh $role)."

put() { # MODE SOURCE TARGET: only where it differs, so that a second run changes nothing
    cmp -s "$2" "$root$3" || install -D -m "$1" "$2" "$root$3"
}

keep() { # MODE SOURCE TARGET: only where there is none; what you wrote stays
    if [ -e "$root$3" ]; then :; else install -D -m "$1" "$2" "$root$3"; fi
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() { # the system's before one that root has for itself, which no service could start
    for python in ${PYTHON:-/usr/bin/python3 python3}; do
        if is_recent "$python"; then return; fi
    done
    die "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3."
}

is_unit() { [ -e "$root$units/$1.service" ]; }

copy_source() { # what the program is built of, without what building or running left in it
    scratch=$(mktemp -d)
    cp -R pyproject.toml setup.py README.md LICENSE shared models edge_agent match_server "$scratch"
    find "$scratch" \( -name __pycache__ -o -name '*.so' \) -prune -exec rm -rf {} +
}

install_program() {
    find_python
    ! is_unit "$other" || extra=edge,server # a box that is a server as well
    if [ ! -x "$root$program/bin/python" ] && ! "$python" -m venv "$root$program"; then
        rm -rf "$root$program"
        die "This Python makes no virtual environments (Debian: apt-get install python3-venv)."
    fi
    copy_source
    "$root$program/bin/pip" install --quiet --disable-pip-version-check --upgrade "$scratch[$extra]"
    if [ -z "$root" ] && ! runuser -u "$user" -- "$program/bin/python" -c ''; then
        die "The user $user cannot run $(readlink -f "$program/bin/python"): remove $program, and" \
            "install with PYTHON=/path/to/python3, one that every user may run."
    fi
    say "Installed the program in $program."
}

install_models() { # into the service's own folder, so that it can repair what is damaged
    own=$root$state/models
    [ -n "$root" ] || install -d -m 0700 -o "$user" -g "$user" "$state"
    install -d -m 0755 "$own"
    if [ -d "$root$shared_models/compact" ] && [ ! -d "$own/compact" ]; then
        cp -R "$root$shared_models/." "$own"
    fi
    MUSTER_MODELS_DIR=$own "$root$program/bin/face-models" pull compact
    [ -n "$root" ] || chown -R "$user:$user" "$own"
}

drop_shared_models() { # once no unit that is installed uses them
    grep -qs "$shared_models" "$root$units/match-server.service" \
        "$root$units/match-server-ingest.service" "$root$units/edge-agent.service" ||
        rm -rf "$root$shared_models"
}

put_command() { # the command that acts as the service, unless somebody has another of that name
    target=$root/usr/local/bin/$1
    if [ -e "$target" ] && ! grep -qs muster-command "$target"; then
        say "Left $target alone, which is not of this installer: it is not the service's command."
    else
        put 0755 systemd/muster-command.sh "/usr/local/bin/$1"
    fi
}

make_users() { # below a folder they are the business of the machine that the folder is for
    if [ -n "$root" ]; then :
    elif command -v systemd-sysusers >/dev/null 2>&1; then
        systemd-sysusers muster.conf
    else
        for account in muster muster-agent; do
            id "$account" >/dev/null 2>&1 ||
                useradd --system --no-create-home --shell /usr/sbin/nologin "$account"
        done
    fi
}

may_read() { # FILE: the service's user reads it, and no other; it may hold passwords
    chmod 0640 "$root$1"
    [ -n "$root" ] || chgrp "$user" "$1"
}

put 0644 systemd/muster.sysusers.conf /usr/lib/sysusers.d/muster.conf
make_users
[ -n "$files" ] || { install_program; install_models; }
keep 0600 "systemd/$role.env.example" "/etc/muster/$role.env"
started=$unit
if [ "$role" = server ]; then
    keep 0640 systemd/server.toml.example /etc/muster/server.toml
    may_read /etc/muster/server.toml
    put_command match-server
    if [ -n "$ingest" ] || is_unit match-server-ingest; then
        put 0644 systemd/match-server-ingest.service "$units/match-server-ingest.service"
        started="$unit match-server-ingest"
    fi
else
    keep 0640 edge_agent/config/agent.example.toml /etc/muster/agent.toml
    may_read /etc/muster/agent.toml
    # Before the first start, so that a key that root fetches is the agent's from the beginning.
    [ -n "$root" ] || install -d -m 0700 -o "$user" -g "$user" "$state"
    put_command edge-agent
fi
put_command face-models
put 0644 "systemd/$unit.service" "$units/$unit.service"
drop_shared_models

if [ -n "$root" ] || [ ! -d /run/systemd/system ]; then
    say "Nothing was started: no systemd is running here."
    exit 0
fi
systemctl daemon-reload
for service in match-server match-server-ingest edge-agent; do
    # The other services run the same program, which is another one now.
    ! is_unit "$service" || [ -n "$files" ] || systemctl try-restart "$service"
done
if [ "$role" = agent ] && cmp -s edge_agent/config/agent.example.toml /etc/muster/agent.toml; then
    say "Edit /etc/muster/agent.toml, or fetch the box's key (sudo edge-agent enroll-device), then:" \
        "systemctl enable --now edge-agent"
else
    # shellcheck disable=SC2086  # the units are words
    systemctl enable --now $started
    # shellcheck disable=SC2086
    [ -z "$files" ] || systemctl restart $started
    say "Running: $started (journalctl -fu $unit shows what it says)."
fi
