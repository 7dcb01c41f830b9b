#!/bin/sh
# Makes the bucket for artifacts, and the user of mlflow-proxy, who may use that bucket and nothing else.
# It may be run again: what is there stays, and a changed password or policy is taken up. The image has a shell and mc,
# and no grep.
set -eu
: "${MINIO_ROOT_USER:?}" "${MINIO_ROOT_PASSWORD:?}" "${AWS_ACCESS_KEY_ID:?}" "${AWS_SECRET_ACCESS_KEY:?}"
bucket=mlflow

mc alias set store http://minio:9000 "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" >/dev/null
mc mb --ignore-existing "store/$bucket"
mc admin user add store "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY"
mc admin policy create store mlflow-artifacts /policy.json
# To attach what is attached already is an error to some versions of mc.
case $(mc admin user info store "$AWS_ACCESS_KEY_ID") in
    *mlflow-artifacts*) ;;
    *) mc admin policy attach store mlflow-artifacts --user "$AWS_ACCESS_KEY_ID" ;;
esac
