"""Invariants of a simulated world: named rules that every simulated run of the service must keep.

An invariant never trusts the service's own account alone. It compares what was observed on the simulated
wire, what each client received, the events that the service emitted, /status and the providers' ledgers.

    rule                           checked in                      when
    only_permitted_attempts        online, breakers                as each attempt is sent
    probe_limit_respected          breakers                        as each attempt is sent
    retry_after_respected          online                          as each attempt is sent
    final_refusal_respected        online                          as each attempt is sent
    reloaded_keys_used             online                          as each attempt is sent
    permits_accounted_for          online, shutdown                as each attempt is sent; at the end
    cancelled_when_client_leaves   online                          as each connection is closed
    cache_and_sharing_correct      cache_and_sharing               at each cache look-up and shared call
    last_resort_offered            breakers                        as each request ends
    one_agreed_end                 online, shutdown, consistency   as each request ends; at the end
    attempts_counted_once          online, shutdown, consistency   as each attempt ends; at the end
    retry_budget_respected         online, retry_budget            as each attempt is sent; at the end
    queue_fair_and_timely          online, queue, consistency      as each attempt is sent; at the end
    hedging_bounded                hedging                         at the end
    whole_delivery_respected       delivery                        at the end
    fallback_allowed_and_labelled  fallbacks                       at the end
    rate_limits_exact              rate_limits                     at the end
    honest_end                     shutdown                        at the end
    ends_by_deadline               shutdown                        at the end
    no_spliced_answer              shutdown                        at the end
    own_fault_is_5xx               own_faults                      at the end
    drain_in_time                  shutdown                        after a drain
    ledger_agrees                  consistency                     at the end
    recovery_noticed               recovery                        at the end
    kept_is_kept                   people_kept, people_owners      as it is told; at a crash; at the end
    kept_whole                     people_kept                     as it is told; at a crash; at the end
    kept_in_the_end                people_kept                     at the end
    half_no_answer                 people_kept                     at a crash; at the end
    owners_apart                   people_owners                   as a list is read; at the end
    asked_once                     people_owners                   at the end
    linger_respected               people_linger                   as each turn ends
    read_on_exactly                people_readings                 at the end
    socket_honest                  people_sockets                  as each message is read
    database_not_needed            people_database                 at the end
    prompt_fits                    people_prompts                  at the end
    jobs_end                       jobs                            at the end
    steps_kept_once                jobs                            as each step is asked; at the end
    enough_complete                availability                    at the end
    others_unharmed                others_unharmed                 at the end

The other files: `record.py` holds what was observed and reports a violation (`RunRecord.violated(rule,
what)`); `coverage.py` lists the branches that must be reached at least once over many seeds;
`trail_headers.py` holds helpers.

To add an invariant:

1. Write the check; it calls `RunRecord.violated(rule, what)`. Of a whole run: a function
   `check_something(world, record)` in a file here. Of single attempts or events: a method of
   `OnlineInvariants` (online.py), which receives each of them.
2. Call it: a function in `Simulation.run` (../run.py), a method where `OnlineInvariants` receives its event.
3. Add the name, the files and the moment to the table above (a test compares it with the files).
4. Add a row to docs/prove/simulation.md that says what must hold.
5. Break the service on purpose: a mutant in tests/simulation/mutants.py, listed in `MUTANTS` there, with its
   seed and rule in `CAUGHT` (tests/simulation/test_simulate_mutants.py). A check that cannot fail proves
   nothing.
6. If the check means something only after a certain event: add the event to `REQUIRED` (coverage.py).
"""
