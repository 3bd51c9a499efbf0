package api

// HasRoute reports whether the table of routes has a row for an operation, with its path as
// echo writes it.
func HasRoute(method, path string) bool {
	_, has := routes[method+" "+path]
	return has
}

// Routes is how many rows the table of routes has.
func Routes() int { return len(routes) }
