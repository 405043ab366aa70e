"""The same workflow JSON without ComfyUI: read it, check it, run it here or on a server.

    graph = workflow.read(path, infos)      a file, canvas or API format, becomes one frozen `Graph`
    Executor(nodes).run(graph)              runs it in this process
    server.Server(url).run(graph)           has a ComfyUI run it

Everything is driven by what `/object_info` says about a node (`GET_NODE_INFO_V1`).
"""
