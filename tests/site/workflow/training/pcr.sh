#!/bin/sh
# Stand in for the training that is a shell script.
exec python3 "$(dirname "$0")/pinn.py" "$@"
