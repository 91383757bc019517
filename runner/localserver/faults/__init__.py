"""Misbehaviour by order: which kinds there are, which are armed, and where each one acts.

A fault is armed by settings (`faults`), by a file (`run local-server --faults FILE`) or over HTTP
(`POST /faults`), kept in the database (so that it is shared by every process of the state folder and
survives a restart), and asked for at a named point. Each point has one acting place and its kinds stand in
one table:

    point     when                                                   acting place     kinds
    deed      a request has arrived; somebody else does something    fault_gate       connections
    late      the client is told nothing; the effect comes later     fault_gate       connections
    before    nothing has happened yet: a refusal or a wait          fault_gate       refusing
    arrive    the request's body is being read                       fault_gate       connections
    after     the effect is committed, the reply is about to go      fault_gate       connections
    object    a batch or a file is told                              fault_gate       objects
    listing   a page of a listing is told                            fault_gate       objects
    content   the lines of a result file are told                    fault_gate       contents
    wire      the bytes of a reply are sent                          fault_sending    connections
    read      a reader asks for the state of files and batches       site.as_of_us    connections
    start     a batch is about to begin                              executor         executing
    answer    a request was executed                                 executor         executing
    record    results are about to be recorded                       executor         executing

To add a kind: one entry in the table of its topic. Of several faults that fit a request, the oldest that is
due fires at each point; faults of different points add up.

A fault fires for requests whose route matches (`POST /v1/batches`, wildcards allowed) and whose text
contains `token`, from the `nth` such request on, `times` times (0: for ever). The text is path and query;
for uploads and creates after the effect also filename, file id and metadata; for the points of the executor
the batch's id stands for the route, and the text is the request's custom_id or the batch's metadata.

    kind        one kind: point, summary, default route, parameters, what it does
    refusing, connections, objects, contents, executing    the kinds by topic;  table: all of them
    checking    is a fault object right? and files of them
    plan        the armed ones, in the database
"""

from __future__ import annotations

from runner.localserver.faults.checking import FaultError, mistakes_of, read_faults
from runner.localserver.faults.kind import FaultKind, Point
from runner.localserver.faults.plan import Fault, FaultPlan
from runner.localserver.faults.table import KINDS

__all__ = ["KINDS", "Fault", "FaultError", "FaultKind", "FaultPlan", "Point", "mistakes_of", "read_faults"]
