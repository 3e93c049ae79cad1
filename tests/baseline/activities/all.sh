#!/bin/sh
# all.sh NAME...   One activity after the other; one that fails or hangs doesn't end the rest.
ip link set lo up
for name in "$@"; do
    start=$(date +%s)
    timeout -k 5 "${LIMIT:-900}" sh -eu "/baseline/$name.sh" < /dev/null > "/baseline/$name.log" 2>&1
    status=$?
    echo "$name $status $(($(date +%s) - start))"
done
