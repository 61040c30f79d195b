#!/bin/sh
# Fills the passwords of the environment into the ACL file, hashed, and becomes the server.
set -eu
umask 077

here=$(dirname "$0")
run=${REDIS_RUN_DIR:-/run/redis}
data=${REDIS_DATA_DIR:-/data}
private=${REDIS_PRIVATE_DIR:-/tmp} # the server's alone
least=16

hash_of() { # the SHA-256 of the variable's value, which appears in no argument of any process
    eval "value=\${$1:-}"
    if [ "${#value}" -lt "$least" ]; then
        echo "$1 has ${#value} characters; take $least or more, as random as can be" >&2
        exit 2
    fi
    printf %s "$value" | sha256sum | cut -c1-64
}

coordinator=$(hash_of EMBEDMILL_REDIS_COORDINATOR_PASSWORD)
worker=$(hash_of EMBEDMILL_REDIS_WORKER_PASSWORD)
monitor=$(hash_of EMBEDMILL_REDIS_MONITOR_PASSWORD)
# An ACL file has one line a user and no comments; `$1 = $1` makes single spaces.
awk '/^[ \t]*(# |$)/ { next }
     /^user/ { if (line) print line; line = "" }
     { $1 = $1; line = line ? line " " $0 : $0 }
     END { print line }' "$here/users.acl.template" |
    sed -e "s/@COORDINATOR@/$coordinator/" -e "s/@WORKER@/$worker/" -e "s/@MONITOR@/$monitor/" > "$private/users.acl"
unset EMBEDMILL_REDIS_COORDINATOR_PASSWORD EMBEDMILL_REDIS_WORKER_PASSWORD EMBEDMILL_REDIS_MONITOR_PASSWORD value

server=$(command -v valkey-server || command -v redis-server) || {
    echo "neither valkey-server nor redis-server is on PATH" >&2
    exit 2
}
set -- "$here/redis.conf" --dir "$data" --unixsocket "$run/redis.sock" --aclfile "$private/users.acl" \
    --maxmemory "${REDIS_MAXMEMORY:-1gb}"
if [ -n "${REDIS_PORT:-}" ]; then # without TLS: for a network that lets in nobody else
    set -- "$@" --port "$REDIS_PORT"
fi
if [ -n "${REDIS_TLS_DIR:-}" ]; then # machines elsewhere: TLS, and the same passwords
    set -- "$@" --tls-port "${REDIS_TLS_PORT:-6379}" --tls-auth-clients no \
        --tls-cert-file "$REDIS_TLS_DIR/redis.crt" --tls-key-file "$REDIS_TLS_DIR/redis.key"
fi
exec "$server" "$@"
