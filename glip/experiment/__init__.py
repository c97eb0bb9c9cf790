"""The paper's experiment: a protocol in, runs that resume, tables out; and the detectors it compares."""
