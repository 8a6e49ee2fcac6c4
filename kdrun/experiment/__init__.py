"""Executing specs: networks, methods and data built, runs trained, alone or in lockstep, figures computed from them."""
