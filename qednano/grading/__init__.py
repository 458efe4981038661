"""Graders: what turns a problem and a written proof into a score from 0 to 7, or into no score and the reason why."""
