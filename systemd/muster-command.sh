#!/bin/sh
# The commands of Muster on a machine where it runs as a service: each acts as the service's user,
# with the service's settings, on its data. systemd/install.sh puts this into /usr/local/bin under
# the names of the commands, and knows it again by the word muster-command.
#
#   sudo match-server key create --role admin
#   sudo edge-agent doctor
#   sudo face-models pull centerface
set -eu
name=${0##*/}
program=/opt/muster/bin/$name
umask 077

case " $* " in *" --help "* | *" --version "*) exec "$program" "$@" ;; esac
[ "$(id -u)" = 0 ] || {
    printf 'Run this as root, so that it can act as the service: sudo %s\n' "$name $*" >&2
    exit 1
}

read_settings() { # FILE: its lines NAME=VALUE, taken as they stand, as systemd takes them
    [ -f "$1" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        variable=${line%%=*} value=${line#*=}
        case $variable in '' | "$line" | [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
        value=${value%"${value##*[![:space:]]}"}
        case $value in \"*\" | \'*\') value=${value#?} value=${value%?} ;; esac
        export "$variable=$value"
    done <"$1"
}

act_as() { # server or agent, then the words of the command; returns its exit status
    role=$1 user=muster rights='' groups=--init-groups
    shift
    if [ "$role" = agent ]; then
        user=muster-agent groups=--groups=muster-agent,video
        getent group video >/dev/null || groups=--init-groups
    elif [ "${2:-}" != doctor ]; then
        # What root names (pictures in a home, a file to export to) is read and written, though it
        # is not the service's; what is made belongs to the service.
        rights='--inh-caps=+dac_override --ambient-caps=+dac_override'
    fi
    # `enroll-device` writes into /etc/muster, and gives the key to the agent's user by itself.
    case ${2:-} in enroll-device) user=root groups=--init-groups ;; esac
    state=/var/lib/muster
    [ "$role" = server ] || state=/var/lib/muster-agent
    (
        export HOME="$state" MUSTER_MODELS_DIR="$state/models" MUSTER_COMMAND_PREFIX=sudo
        if [ "$role" = server ]; then
            export MUSTER_CONFIG=/etc/muster/server.toml MUSTER_DATA_DIR="$state"
        else
            export MUSTER_AGENT_CONFIG=/etc/muster/agent.toml STATE_DIRECTORY="$state"
        fi
        read_settings "/etc/muster/$role.env"
        # shellcheck disable=SC2086  # the rights are words
        exec setpriv --reuid="$user" --regid="$user" $groups $rights -- "$@"
    )
}

is_here() { [ -e "/etc/systemd/system/$1.service" ]; }

case $name in
match-server) act_as server "$program" "$@" ;;
edge-agent) act_as agent "$program" "$@" ;;
face-models) # the server and the agent have their own, as each trusts no file of the other's
    is_here match-server || is_here edge-agent || exec "$program" "$@"
    status=0
    if is_here match-server; then act_as server "$program" "$@" || status=$?; fi
    if is_here edge-agent; then act_as agent "$program" "$@" || status=$?; fi
    exit "$status"
    ;;
*) printf '%s is no command of Muster.\n' "$name" >&2; exit 2 ;;
esac
