#!/bin/sh
# Stand in for the screen house's simulation, with its arguments:
# runme.sh STRUCTURE PROCESSES SPEED 0.0 0.0 OUTPUT DECOMPOSITION ID DIRECTION
set -eu
[ -f "$1" ] && [ "$2" = 32 ] && [ "$7" = "1 4 1" ]
site=$(dirname "$0")/..
echo "sim $8 in job ${SLURM_JOB_ID:-none}" >> "$site/begun"
while [ -e "$site/hold" ]; do sleep 0.1; done
sleep 0.5
printf 'speed,direction\n%s,%s\n' "$3" "$9" > "$6/sim_$8_ws_$3_wd_$9.csv"
echo "sim $8 in job ${SLURM_JOB_ID:-none}" >> "$site/log"
