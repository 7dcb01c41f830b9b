#!/bin/sh
# checked.sh COMMAND...: runs the command, unless something in its environment is still the example's CHANGE-ME. What is
# made with that once, as a database is, would keep it.
set -eu
left=$(export -p | while IFS= read -r line; do
    case $line in
        *=*CHANGE-ME*) line=${line%%=*}; printf ' %s' "${line##* }" ;;
    esac
done)
[ -z "$left" ] || {
    echo "checked.sh: still CHANGE-ME:$left; set it in mlflow-postgres.env, mlflow-minio.env or mlflow-oidc.env" >&2
    exit 1
}
exec "$@"
