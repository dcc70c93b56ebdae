"""The page of ``scalekv app``: one model, one queue, an image generated twice. It knows no command line.

What does not need gradio stands apart from it, and is tested without a browser:

- ``form``, ``menus``: what stands in the fields, checked; what they offer;
- ``memory``, ``kept``: the figures before and after an image;
- ``engine``, ``run``: the loaded model, whose turn it is, one image after another;
- ``calls``, ``record``: the same call as Python and as a shell command, and what goes into a downloaded PNG;
- ``pictures``, ``fragments``: data URLs and pieces of HTML.

``page`` places all this with gradio, and ``server`` listens.
"""
