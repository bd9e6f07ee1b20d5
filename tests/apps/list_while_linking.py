#!/usr/bin/env python3
"""Gives each file of a directory another name elsewhere while the directory is listed, and tells what was listed, then and after.

usage: list_while_linking.py DIRECTORY ELSEWHERE     on one file system; ELSEWHERE is made
"""
import os
import sys

directory, elsewhere = sys.argv[1:]
os.mkdir(elsewhere)
during = []
for entry in os.scandir(directory):
    during.append(entry.name)
    if entry.is_file(follow_symlinks=False):
        os.link(entry.path, os.path.join(elsewhere, entry.name))
print("during", *sorted(during))
print("after", *sorted(os.listdir(directory)))
