"""The model doctor: examines one .onnx file before it is served, and says which settings suit it and why.

Like a worker it uses ONNX Runtime, but in processes of its own that may crash or be killed; it needs no cluster, no
database and no Django.
"""
