#!/bin/bash
# A run on all hosts of a Cloud TPU VM slice, one process per host:
#
#   launch/tpu_vm.sh NAME ZONE CONFIG WORKDIR [--config.a.b=value ...]
#   launch/tpu_vm.sh stop NAME ZONE          every process saves at its next step and ends with status 143
#
# The project stands in REMOTE_DIR (jaxseg, from the home folder) of every host, with its Python at PYTHON
# (.venv/bin/python, from there); CONFIG is relative to it, and WORKDIR lies on a file system that all hosts share.
# The exit status is that of the first host whose process failed. Keep the terminal (tmux): a host writes to it.

set -u

pid_file=/tmp/jaxseg.pid

quote() { # as one word for the remote shell, whatever is in it
    printf " '%s'" "${1//\'/\'\\\'\'}"
}

on_all_hosts() {
    exec gcloud compute tpus tpu-vm ssh "$1" --zone="$2" --worker=all --command="$3"
}

if [ $# -eq 3 ] && [ "$1" = stop ]; then
    on_all_hosts "$2" "$3" "kill -TERM \$(cat $pid_file)"
fi
if [ $# -lt 4 ]; then
    echo "error: usage: launch/tpu_vm.sh NAME ZONE CONFIG WORKDIR [flags], or: launch/tpu_vm.sh stop NAME ZONE" >&2
    exit 2
fi
name=$1 zone=$2 config=$3 workdir=$4
shift 4

# gcloud starts the command again where the connection breaks: the lock refuses that (status 75) while a process of the
# first start is alive. It is the process itself that holds the lock and has its number in the file.
command="cd$(quote "${REMOTE_DIR:-jaxseg}") || exit 2;"
command+=" exec flock --no-fork --nonblock --conflict-exit-code 75 $pid_file"
command+=" sh -c 'echo \$\$ >$pid_file; exec \"\$@\"' sh"
for word in "${PYTHON:-.venv/bin/python}" -m jaxseg.train --config="$config" --workdir="$workdir" \
    --distributed=auto "$@"; do
    command+=$(quote "$word")
done
on_all_hosts "$name" "$zone" "$command"
