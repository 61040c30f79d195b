#!/bin/sh
# Writes the secrets of the environment into files, which is how Prometheus reads them, and becomes the server.
# Compose would copy its own kind of secrets into the container, and cannot into a read-only one.
set -eu
umask 077

folder=${SECRETS_DIR:-/run/secrets} # in memory
printf %s "$EMBEDMILL_METRICS_TOKEN" > "$folder/metrics_token"
printf %s "$EMBEDMILL_MONITOR_PASSWORD" > "$folder/monitor_password"
unset EMBEDMILL_METRICS_TOKEN EMBEDMILL_MONITOR_PASSWORD
exec prometheus "$@"
