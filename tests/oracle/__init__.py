"""An account of member accesses that owes nothing to klasy's own derivation: what debug registers caught.

``collect.py`` runs as root in the lab's guest and writes one JSON document: for each watched member of real objects the
instructions that touched it. ``compare.py`` judges klasy's static sites by it; ``verify.py`` is the other direction: it
runs the static sites and looks at the slab cache of the object that each has in its base register.
From klasy itself only :mod:`klasy.btf` is used, for the offsets of members.
"""
