package relay

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxEvent is as much of an event as is held, in bytes. A longer one is passed on, and
	// its usage read from its end.
	maxEvent = 1 << 20
	// endBytes is how much of the end of a long event is looked at.
	endBytes = 64 << 10
)

// splitter parts what passes into events. It is told of bytes as they come; it holds one
// event at the most, and of a long one its end.
type splitter interface {
	// feed takes bytes, and calls each with the data of every event that they complete, and
	// the bytes that it came as.
	feed(chunk []byte, each func(data, raw []byte))
	// end calls each with what is left when nothing more comes.
	end(each func(data, raw []byte))
}

// held is the event that is on its way.
type held struct {
	buf  []byte
	long bool // its beginning is gone
	// spill takes the bytes of a long event as they come, where others are held until they
	// are whole. Nil: none are held.
	spill func(raw []byte)
}

// add keeps bytes, or the end of them.
func (h *held) add(b []byte) {
	h.buf = append(h.buf, b...)
	if h.spill != nil {
		if h.long {
			h.spill(b)
		} else if len(h.buf) > maxEvent {
			h.spill(h.buf)
		}
	}
	if len(h.buf) > maxEvent || h.long && len(h.buf) > 2*endBytes {
		h.buf = append(h.buf[:0], h.buf[len(h.buf)-endBytes:]...)
		h.long = true
	}
}

// data is the event, or, of a long one, an object with the usage that its end has: of several
// that look like it the one that counts the most, since an answer may repeat what the request
// brought. What is inside of a text cannot be taken for it: its quotes are escaped there.
func (h *held) data() (found []byte) {
	if !h.long {
		return h.buf
	}
	var most int64 = -1
	for _, name := range []string{`"usage"`, `"usageMetadata"`} {
		for rest := h.buf; ; {
			at := bytes.Index(rest, []byte(name))
			if at < 0 {
				break
			}
			rest = rest[at+len(name):]
			value, err := jsontext.NewDecoder(bytes.NewReader(bytes.TrimLeft(rest, " \t\r\n:"))).ReadValue()
			if err != nil || value.Kind() != '{' {
				continue
			}
			var members map[string]jsontext.Value
			if unmarshal(value, &members) != nil {
				continue
			}
			var sum int64
			for member := range members {
				sum += number(members, member)
			}
			if sum > most {
				most, found = sum, append(append([]byte(`{`+name+`:`), value...), '}')
			}
		}
	}
	return found
}

func (h *held) reset() { h.buf, h.long = h.buf[:0], false }

// whole is the splitter of an answer that is one document.
type whole struct{ held }

func (w *whole) feed(chunk []byte, _ func(data, raw []byte)) { w.add(chunk) }

func (w *whole) end(each func(data, raw []byte)) { each(w.data(), w.buf) }

// sse is the splitter of server-sent events. It is ours since the bytes that an event came
// as are what goes on, which no reader of events gives.
// Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
type sse struct {
	held

	line []byte // the line that is on its way
	data []byte // the event's data so far
}

func (s *sse) feed(chunk []byte, each func(data, raw []byte)) {
	for len(chunk) > 0 {
		part := chunk
		if at := bytes.IndexByte(chunk, '\n'); at >= 0 {
			part = chunk[:at+1]
		}
		chunk = chunk[len(part):]
		s.add(part)
		if s.line = append(s.line, part...); part[len(part)-1] == '\n' {
			s.take(each)
		} else if len(s.line) > maxEvent {
			s.line = s.line[:0] // the held end tells
		}
	}
}

// take takes a line that is whole.
func (s *sse) take(each func(data, raw []byte)) {
	line := bytes.TrimRight(s.line, "\r\n")
	s.line = s.line[:0]
	if len(line) > 0 {
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && !s.long {
			if len(s.data) > 0 {
				s.data = append(s.data, '\n')
			}
			s.data = append(s.data, bytes.TrimPrefix(data, []byte(" "))...)
		}
		return
	}
	data := s.data
	if s.long {
		data = s.held.data()
	}
	raw := s.buf
	if s.long && s.spill != nil { // has gone on already
		raw = nil
	}
	each(data, raw)
	s.reset()
	s.data = s.data[:0]
}

func (s *sse) end(each func(data, raw []byte)) {
	if len(s.line) > 0 {
		s.take(each)
	}
	if len(s.buf) > 0 {
		s.take(each)
	}
}

// array is the splitter of Gemini's streams without alt=sse: one JSON array that is sent
// element by element.
type array struct {
	held

	depth            int
	quoted, escaping bool
}

func (a *array) feed(chunk []byte, each func(data, raw []byte)) {
	from := 0
	for i, c := range chunk {
		switch {
		case a.escaping:
			a.escaping = false
		case a.quoted:
			a.escaping, a.quoted = c == '\\', c != '"'
		case c == '"':
			a.quoted = true
		case c == '{' || c == '[':
			if a.depth++; a.depth == 2 { //nolint:mnd // an element of the array begins
				from = i
			}
		case c == '}' || c == ']':
			if a.depth--; a.depth == 1 {
				a.add(chunk[from : i+1])
				each(a.data(), a.buf)
				a.reset()
			}
		}
	}
	if a.depth >= 2 { //nolint:mnd // within an element
		a.add(chunk[from:])
	}
}

func (a *array) end(func(data, raw []byte)) {}
