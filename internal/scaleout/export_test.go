package scaleout

// Quote is quote, for its test.
var Quote = quote
