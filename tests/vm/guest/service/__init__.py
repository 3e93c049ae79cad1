"""The sensor as a service: installed, run, reloaded, hurt, upgraded and removed as an operator does it.

Runs in a guest whose process 1 is systemd. Standard library only: what is tested is what `make install` put there.
"""
