#!/bin/sh
# Archive a directory: a handler as an executable. See graced-worker(1) and WORKERS.md beside this directory.
# The task's context comes on standard input: {"path": "/some/directory"}.
set -eu
path=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["path"])') || exit 65
[ -d "$path" ] || { echo "$path is not a directory" >&2; exit 65; }

# The same name at each attempt, complete or not there at all: doing it twice does no harm.
name=$(echo "$path" | tr -c '[:alnum:]\n' -).tar.gz
target=${STATE_DIRECTORY:?}/$name
echo "10 packing $path" >"$GRACED_PROGRESS"
tar --create --gzip --file "$target.new" --directory "$path" .
mv "$target.new" "$target"
printf '{"archive": "%s", "bytes": %d}\n' "$target" "$(wc -c <"$target")"
