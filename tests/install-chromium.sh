#!/bin/sh
# Install the browser of tests/etl/report/test_browser.py (Debian, Ubuntu; as root); nothing where there is one.
set -eu
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium
