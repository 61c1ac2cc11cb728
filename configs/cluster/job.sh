# What the jobs share. The command is interrupted before its time is up, as Ctrl-C would, ends its epoch's step
# and exits with 130; the job then submits itself again, ten times at most. Another failure stops there.
# SARTUTORIAL names the command where it is not on the path.
run_recipe() { # RECIPE SECONDS
    in_time "$2" INT ${SARTUTORIAL:-sartutorial} run "$1"
}

in_time() { # SECONDS SIGNAL COMMAND...
    timeout --signal="$2" --kill-after=300 "$1" "${@:3}"
    code=$?
    if [ "$code" -eq 124 ] || [ "$code" -eq 130 ]; then
        left=${AGAIN:-10}
        if [ "$left" -gt 0 ]; then
            again $((left - 1))
            return
        fi
        echo "time is up and no job is left: submit it again" >&2
    fi
    return "$code"
}
