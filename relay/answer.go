package relay

import (
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/andybalholm/brotli"
)

// answer is the body of a metered answer on its way to the client. Its usage is read as it
// passes, and the request is settled before the client sees the end.
type answer struct {
	x        *exchange
	src      io.ReadCloser
	split    splitter
	document bool   // one document, not a stream
	came     int64  // bytes that have come
	left     int64  // bytes that are still to come; negative: nobody knows
	out      []byte // events that may go on, where some are taken out
	over     error  // how the provider's answer ended; nil: it has not
	silence  *time.Timer

	decode  *io.PipeWriter // what decodes a compressed answer; nil: it is plain
	decoded chan struct{}  // closed when all is decoded
}

// decoders read the encodings that the relay asks for.
var decoders = map[string]func(io.Reader) (io.Reader, error){
	"gzip": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"br":   func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil },
}

// metered puts an answer in the place of a response's body.
func (x *exchange) metered(resp *http.Response) error {
	a := &answer{x: x, src: resp.Body, left: resp.ContentLength}
	a.silence = time.AfterFunc(x.relay.c.IdleTimeout, func() { x.cancel(errSilent) })
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case err == nil && kind == "text/event-stream":
		events := &sse{}
		if x.hideUsage {
			events.spill = func(raw []byte) { a.out = append(a.out, raw...) }
		}
		a.split = events
	case x.op.stream:
		a.split = &array{}
	default:
		a.split, a.document = &whole{}, true
	}
	encoding := resp.Header.Get("Content-Encoding")
	switch open := decoders[encoding]; {
	case open != nil:
		a.startDecoding(open)
	case encoding != "" && encoding != "identity":
		x.relay.log.Warn("an answer came in an encoding that nobody asked for: it is estimated", "encoding", encoding)
		a.split = &whole{}
	}
	resp.Body = a
	if x.hideUsage && !a.document {
		resp.ContentLength = -1
		resp.Header.Del("Content-Length")
	}
	return nil
}

// startDecoding reads a compressed answer beside the one that passes.
func (a *answer) startDecoding(open func(io.Reader) (io.Reader, error)) {
	r, w := io.Pipe()
	a.decode, a.decoded = w, make(chan struct{})
	go func() {
		defer close(a.decoded)
		defer func() { _, _ = io.Copy(io.Discard, r) }() // what cannot be decoded passes all the same
		plain, err := open(r)
		if err != nil {
			return
		}
		buf := make([]byte, copyBuffer)
		for {
			n, err := plain.Read(buf)
			a.x.see(func(m meter) {
				a.split.feed(buf[:n], func(data, _ []byte) { m.event(data) })
			})
			if err != nil {
				return
			}
		}
	}()
}

// Read implements io.Reader.
func (a *answer) Read(p []byte) (int, error) {
	for {
		if len(a.out) > 0 {
			n := copy(p, a.out)
			a.out = a.out[n:]
			return n, nil
		}
		if a.over != nil {
			return 0, a.over
		}
		a.silence.Reset(a.x.relay.c.IdleTimeout)
		n, err := a.src.Read(p)
		a.silence.Stop()
		pass := a.take(p[:n])
		a.came += int64(n)
		if a.left >= 0 {
			a.left -= int64(n)
		}
		switch {
		case err != nil:
			a.end(err)
		case a.left == 0 || a.x.ended():
			a.settle(nil)
		}
		if pass && n > 0 {
			return n, nil // the end, if there was one, is told next time
		}
	}
}

// take looks at bytes that have come. It tells whether they pass as they are; else what
// may pass is in out.
func (a *answer) take(chunk []byte) (pass bool) {
	if len(chunk) == 0 {
		return false
	}
	if a.decode != nil {
		_, _ = a.decode.Write(chunk) // the reader takes everything
		return true
	}
	hides := a.x.hideUsage && !a.document
	a.out = a.out[:0]
	a.x.see(func(m meter) {
		a.split.feed(chunk, func(data, raw []byte) {
			m.event(data)
			if hides && !usageAlone(data) {
				a.out = append(a.out, raw...)
			}
		})
	})
	return !hides
}

// end is called when the provider's answer has ended, well or not.
func (a *answer) end(err error) {
	if cause := a.x.cause(); cause != nil && !errors.Is(err, io.EOF) {
		err = cause
	}
	a.over = err
	if a.decode != nil {
		_ = a.decode.Close()
		<-a.decoded
	}
	hides := a.x.hideUsage && !a.document
	a.x.see(func(m meter) {
		a.split.end(func(data, raw []byte) {
			m.event(data)
			if hides && !usageAlone(data) {
				a.out = append(a.out, raw...)
			}
		})
	})
	a.settle(err)
}

// settle settles the request if what it used is known, or if nothing more comes.
func (a *answer) settle(err error) {
	if err == nil && a.document { // all has come, but its end is not told yet
		a.end(io.EOF)
		return
	}
	read := a.x.read()
	if a.document && read.received == (textCount{}) { // too long to be read, or broken off
		a.x.see(func(m meter) { m.passed(a.came) })
		read = a.x.read()
	}
	complete := read.usage != nil && (read.final && read.ended || errors.Is(err, io.EOF) && (read.final || a.document))
	switch {
	case complete:
		a.x.finish(settledExact)
	case err == nil:
	case read.usage == nil && read.received == (textCount{}) && (read.failed || broken(err)):
		a.x.finish(settledReleased) // the provider ended it before it told anything
	default:
		a.x.relay.log.Warn("an answer did not tell its usage: it is estimated", "service", a.x.service, "model", a.x.model, "why", err)
		a.x.finish(settledEstimated)
	}
}

// Close implements io.Closer. A client that goes before the end leaves an answer that is
// still read to its usage, unless the relay is told to cancel it or reads too many so.
func (a *answer) Close() error {
	if a.x.done() || a.over != nil {
		return a.shut(errGone)
	}
	if a.x.mayDrain() {
		go a.drain()
		return nil
	}
	a.end(errGone)
	return a.shut(errGone)
}

// shut ends the provider's side.
func (a *answer) shut(why error) error {
	a.silence.Stop()
	if a.decode != nil {
		_ = a.decode.Close()
	}
	a.x.cancel(why)
	return a.src.Close()
}

// drain reads on for a client that has gone.
func (a *answer) drain() {
	buf := pooled.Get()
	defer pooled.Put(buf)
	for read := 0; !a.x.done(); {
		n, err := a.Read(buf)
		if read += n; err == nil && read > drainBytes {
			err = errDrained
			a.end(err)
		}
		if err != nil {
			break
		}
	}
	_ = a.shut(errDrained)
}

// usageAlone tells the chunk that OpenAI's chat sends only where the usage was asked for.
func usageAlone(data []byte) bool {
	var e chatEvent
	return unmarshal(data, &e) == nil && len(e.Choices) == 0 && e.Usage != nil
}
