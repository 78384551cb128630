#!/usr/bin/env bash
# Run tests with other versions of torch, each in a virtual environment of its own that is deleted afterwards.
#
#   tools/test_torch_versions.sh 2.9.1 2.14.1                        the tests below
#   tools/test_torch_versions.sh 2.9.1 -- tests/optim -n 2           these, with pytest's options
#
# PYTHON       the interpreter of the environments (python3)
# TORCH_INDEX  address of an index of CPU builds of torch; unset: what pip is configured to use
# TESTS_TMP    where the environments are made (the temporary folder): each takes 1 to 5 GB
#
# Exits with 1 when the tests fail with one of the versions, with 2 when a version cannot be installed.
set -uo pipefail

cd "$(dirname "$0")/.."
versions=()
while (($#)) && [[ $1 != -- ]]; do
    versions+=("$1")
    shift
done
(($#)) && shift
tests=("$@")
if ((${#versions[@]} == 0)); then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
if ((${#tests[@]} == 0)); then
    tests=(tests/optim tests/model tests/checkpoint tests/runner)
fi

code=0
folder=
trap '[[ -z $folder ]] || rm -rf "$folder"' EXIT
for version in "${versions[@]}"; do
    folder=$(mktemp -d "${TESTS_TMP:-${TMPDIR:-/tmp}}/torch-$version-XXXXXX")
    echo "== torch $version"
    "${PYTHON:-python3}" -m venv "$folder" || exit 2
    index=()
    [[ -n ${TORCH_INDEX:-} ]] && index=(--index-url "$TORCH_INDEX")
    # torch from its index, all else from pip's own: an index of torch alone has nothing else.
    if ! "$folder/bin/pip" install --quiet "${index[@]}" "torch==$version" ||
        ! "$folder/bin/pip" install --quiet -e ".[test]" "torch==$version"; then
        echo "== torch $version: could not be installed"
        code=2
    elif "$folder/bin/python" -m pytest -q "${tests[@]}"; then
        echo "== torch $version: passed"
    else
        echo "== torch $version: failed"
        ((code == 2)) || code=1
    fi
    rm -rf "$folder"
    folder=
done
exit "$code"
