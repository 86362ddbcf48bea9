#!/bin/sh
# A deploy hook for certbot: copies the issued certificate and key to the paths of tls-cert and tls-key, readable by the user `uprtc` alone.
# A running controlplane notices within 2 s. Install: /etc/letsencrypt/renewal-hooks/deploy/uprtc, mode 755.
set -eu
to=/etc/uprtc/tls
install -d -m 700 -o uprtc "$to"
for file in fullchain.pem privkey.pem; do
    install -m 600 -o uprtc "$RENEWED_LINEAGE/$file" "$to/.$file.new"
done
# Renaming is atomic, so no incomplete file is read. Between the two renames the old pair stays in use.
for file in fullchain.pem privkey.pem; do
    mv -f "$to/.$file.new" "$to/$file"
done
