#!/bin/sh
# Healthy is a host whose sshd answers; with any other command, a container that
# has come to run it.
case $(cat ~/.command) in
  '') exit 1 ;;
  sshd) ssh-keyscan -T 5 -p 12345 localhost 2>/dev/null | grep -q . ;;
esac
