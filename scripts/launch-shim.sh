# Read by bin/containerd-shim-*, which set `self` to their own path, `bundle` and `program` to their files below the root. For `start`
# the shim is left running, in a session of its own; what it says on descriptor 3, or of its failure on 2, is what this program says.
# Both end when it serves.
# Its sources as one file, where scripts/setup has made it.
[ -e "${self%/*}/../$bundle" ] && program=$bundle
# Little of it is ever young: a shim idles. Strings are hashed as they are in Node's own snapshot, which saves milliseconds.
node_options="--max-semi-space-size=1 --v8-pool-size=0 --no-rehash-snapshot"
MALLOC_ARENA_MAX=1
export MALLOC_ARENA_MAX
for last; do :; done
if [ "${last-}" != start ]; then
  . "${self%/*}/../scripts/launch.sh"
fi
exec 4<&0
answer=$({
  launcher=setsid
  . "${self%/*}/../scripts/launch.sh"
} 3>&1 2>&3 >/dev/null <&4 4<&- &)
case $answer in
  unix:* | "{"*) printf %s "$answer" ;;
  *)
    printf '%s\n' "$answer" >&2
    exit 1
    ;;
esac
