#!/bin/sh
# Install Muster as services of this machine, from a checkout of its source. Run it again after an
# update: it changes what is different, and never your configuration or data.
#
#   sh systemd/install.sh server [--ingest]     the match server; with --ingest the MQTT consumer
#   sh systemd/install.sh agent                 an edge box
#
# DESTDIR=/folder installs below a folder and starts nothing. --files leaves the program alone (no
# virtual environment, no models): for packagers, and for whoever changed no more than a unit.
# PYTHON=/path/to/python3 chooses another Python than the system's; the service's user must reach it.
set -eu
cd "$(dirname "$0")/.."
root=${DESTDIR:-}
program=/opt/muster
models=/var/lib/muster-models

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

role=${1:-} user=muster-agent
case $role in server | agent) shift ;; *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
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

install_program() {
    find_python
    extra=edge
    [ "$role" = agent ] || { extra=server; user=muster; }
    # A box that is a server as well needs both.
    [ ! -e "$root$program/bin/gunicorn" ] || extra=edge,server
    [ -x "$root$program/bin/python" ] || "$python" -m venv "$root$program"
    "$root$program/bin/pip" install --quiet --disable-pip-version-check --upgrade ".[$extra]"
    if [ -z "$root" ] && ! runuser -u "$user" -- "$program/bin/python" -c ''; then
        die "The user $user cannot run $(readlink -f "$program/bin/python"): remove $program, and" \
            "install with PYTHON=/path/to/python3, one that every user may run."
    fi
    say "Installed the program in $program."
    MUSTER_MODELS_DIR=$root$models "$root$program/bin/face-models" pull compact
    chmod -R a+rX "$root$models"
}

make_users() { # below a folder they are the business of the machine that the folder is for
    if [ -n "$root" ]; then :
    elif command -v systemd-sysusers >/dev/null 2>&1; then
        systemd-sysusers muster.conf
    else
        for user in muster muster-agent; do
            id "$user" >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
        done
    fi
}

put 0644 systemd/muster.sysusers.conf /usr/lib/sysusers.d/muster.conf
make_users
[ -n "$files" ] || install_program
if [ "$role" = server ]; then
    keep 0600 systemd/server.env.example /etc/muster/server.env
    put 0644 systemd/match-server.service /etc/systemd/system/match-server.service
    units=match-server
    if [ -n "$ingest" ]; then
        put 0644 systemd/match-server-ingest.service /etc/systemd/system/match-server-ingest.service
        units="$units match-server-ingest"
    fi
else
    keep 0600 systemd/agent.env.example /etc/muster/agent.env
    keep 0644 edge_agent/agent.example.toml /etc/muster/agent.toml
    # Before the first start, so that a key that root fetches is the agent's from the beginning.
    [ -n "$root" ] || install -d -m 0700 -o muster-agent -g muster-agent /var/lib/muster-agent
    put 0644 systemd/edge-agent.service /etc/systemd/system/edge-agent.service
    units=edge-agent
fi

if [ -n "$root" ] || [ ! -d /run/systemd/system ]; then
    say "Nothing was started: no systemd is running here."
    exit 0
fi
systemctl daemon-reload
if [ "$role" = agent ] && cmp -s edge_agent/agent.example.toml /etc/muster/agent.toml; then
    say "Edit /etc/muster/agent.toml, then: systemctl enable --now edge-agent"
else
    # shellcheck disable=SC2086  # the units are words
    systemctl enable --now $units
    # shellcheck disable=SC2086
    systemctl restart $units
    say "Running: $units (journalctl -fu $role shows what they say)."
fi
