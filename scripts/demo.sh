#!/usr/bin/env bash
# The demo: read a model, edit it, and measure what the edit did. Each
# command is shown before it runs, to be typed again by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

eiffel='The Eiffel Tower is located in the city of'
ioi='When Mary and John went to the store, John gave a drink to'

run() {
  local argument
  printf '\n$ build/bin/mlxterp'
  for argument in "$@"; do
    # Only what a shell would read otherwise gets quotes.
    case $argument in
      *[!A-Za-z0-9_./=-]*) printf " '%s'" "$argument" ;;
      *) printf ' %s' "$argument" ;;
    esac
  done
  printf '\n'
  build/bin/mlxterp "$@"
}

echo "What would the model predict after each layer?"
run lens demo "$eiffel" --track ' Paris' --html demo.html --force

printf '\nWithout the MLP of one layer: does the prediction hold?\n'
run trace demo "$eiffel" --edit 'layers.10.mlp_out=scale(0)' --track ' Paris'

printf '\nMary or John? Above zero, the model prefers Mary.\n'
run trace demo "$ioi" --metric 'logit_diff( Mary, John)'

printf '\nThe lens as a page: %s/demo.html\n' "$PWD"
