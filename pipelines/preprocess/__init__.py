"""Control pictures from pictures: edges, lines, depth, normals, poses, segments."""
