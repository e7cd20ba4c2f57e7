"""Directed graphical models of discrete columns: graphs, tables, structure from data, exact inference."""
