#!/bin/sh
# Starts a container of hvd_imagenet, as the user trainer.
#
#   sshd        a host that waits for horovodrun, on port 12345
#   COMMAND...  runs it, with the same key to reach such hosts
#
# The key is the one mounted at /run/secrets/ssh: id_ed25519, or id_rsa as the
# MPI operator of Kubernetes names it. Without one, sshd makes a key that this
# container alone has.
set -eu

die() {
  echo "entrypoint.sh: $*" >&2
  exit 1
}

mounted=/run/secrets/ssh
umask 077
mkdir -p ~/.ssh
echo "$*" >~/.command # For healthcheck.sh.

# A copy: ssh refuses a key that others may read, and the mode of what is
# mounted is not ours to set.
for name in id_ed25519 id_rsa; do
  [ -e "$mounted/$name" ] || continue
  cat "$mounted/$name" >~/.ssh/id ||
    die "$mounted/$name cannot be read by user $(id -u); make it readable."
  [ -r "$mounted/$name.pub" ] ||
    die "$mounted/$name.pub, the key to let in, is not there; mount it too."
  cat "$mounted/$name.pub" >~/.ssh/authorized_keys
  break
done

if [ "$#" -ne 1 ] || [ "$1" != sshd ]; then
  exec "$@"
fi

if [ ! -e ~/.ssh/id ]; then
  echo "no key is mounted at $mounted; making one for this container alone" >&2
  ssh-keygen -q -t ed25519 -N '' -C hvd_imagenet -f ~/.ssh/id
  cp ~/.ssh/id.pub ~/.ssh/authorized_keys
fi
if [ ! -e ~/.ssh/host_key ]; then
  ssh-keygen -q -t ed25519 -N '' -C "$(hostname)" -f ~/.ssh/host_key
fi
exec /usr/sbin/sshd -D -e -f /etc/ssh/hvd_imagenet_sshd_config \
  -h ~/.ssh/host_key
